#!/usr/bin/env python
"""How much noise a row's mean may carry before training fails: simulated DP-FedAvg on scikit-learn's digits.

Each epoch, every client trains a perceptron 64-HIDDEN-10 locally and clips its update to L2 norm C; the mean of
all updates plus Gaussian noise of L2 norm R*C (R/sqrt(d)*C per parameter) times the server's learning rate moves
the model. R is what `asyncfl plan` calls the noise-to-clip ratio: for the result it does not matter from how
many clients or from which noise multiplier it comes. All clients of an epoch are trained in one batch of matrix
products, without masks: only the size of the noise counts here.

    scripts/dp_noise_threshold.py --json noise.json
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLIENTS: Final = 32
HELD_OUT: Final = 360
LOCAL_STEPS, BATCH, LEARNING_RATE = 20, 16, 0.3
"""Those of the built-in task `digits`."""
RATIOS: Final = (0.0, 1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 20.0, 30.0, 60.0)
SERVER_RATES: Final = (1.0, 0.3, 0.1, 0.03)
SEEDS: Final = (0, 1)


@dataclass(frozen=True)
class Setting:
    """One series over ratios: epochs, clip C, and the hidden layer's width."""

    epochs: int
    clip: float = 1.0
    hidden: int = 64

    @property
    def dimension(self) -> int:
        return 75 * self.hidden + 10


SETTINGS: Final = (
    Setting(20), Setting(60), Setting(120),
    Setting(60, clip=0.3), Setting(60, clip=3.0),
    Setting(60, hidden=16), Setting(60, hidden=256),
)  # fmt: skip


class Digits:
    """The data set, split at random: 360 images held out, the others in equal parts over the clients."""

    def __init__(self, seed: int) -> None:
        inputs, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        images = torch.from_numpy((inputs / 8 - 0.6).astype("float32"))[order]
        classes = torch.from_numpy(labels)[order]
        each = (len(labels) - HELD_OUT) // CLIENTS
        last = HELD_OUT + each * CLIENTS
        self.test = images[:HELD_OUT], classes[:HELD_OUT]
        self.images = images[HELD_OUT:last].view(CLIENTS, each, 64)
        self.labels = classes[HELD_OUT:last].view(CLIENTS, each)


def split(flat: Tensor, hidden: int) -> list[Tensor]:
    """Weights and biases of flat models [..., d]."""
    sizes = [64 * hidden, hidden, 10 * hidden, 10]
    shapes = [(64, hidden), (1, hidden), (hidden, 10), (1, 10)]
    return [
        part.reshape(*flat.shape[:-1], *shape)
        for part, shape in zip(flat.split(sizes, dim=-1), shapes, strict=True)
    ]


def local_updates(flat: Tensor, hidden: int, data: Digits, generator: torch.Generator) -> Tensor:
    """Every client's update [clients, d] after local SGD from one model [d]."""
    first, bias, second, last = (part.clone() for part in split(flat.expand(CLIENTS, -1), hidden))
    for _ in range(LOCAL_STEPS):
        chosen = torch.randint(0, data.labels.shape[1], (CLIENTS, BATCH), generator=generator)
        inputs = data.images.gather(1, chosen[..., None].expand(-1, -1, 64))
        before = torch.baddbmm(bias, inputs, first)
        active = before.relu()
        error = torch.baddbmm(last, active, second).softmax(-1)
        error.scatter_add_(2, data.labels.gather(1, chosen)[..., None], -torch.ones(CLIENTS, BATCH, 1))
        error *= LEARNING_RATE / BATCH
        back = error @ second.transpose(1, 2) * (before > 0)
        second -= active.transpose(1, 2) @ error
        last -= error.sum(1, keepdim=True)
        first -= inputs.transpose(1, 2) @ back
        bias -= back.sum(1, keepdim=True)
    return torch.cat([part.reshape(CLIENTS, -1) for part in (first, bias, second, last)], 1) - flat


def train(setting: Setting, ratio: float, server_rate: float, seed: int) -> tuple[float, float]:
    """Accuracy of the last model, and the norm of the first mean update in units of C."""
    data, generator = Digits(seed), torch.Generator().manual_seed(1000 + seed)
    hidden, dimension = setting.hidden, setting.dimension
    bounds = torch.cat([torch.full((65 * hidden,), 64**-0.5), torch.full((10 * hidden + 10,), hidden**-0.5)])
    flat = (2 * torch.rand(dimension, generator=generator) - 1) * bounds
    signal = None
    for _ in range(setting.epochs):
        updates = local_updates(flat, hidden, data, generator)
        updates *= (setting.clip / updates.norm(dim=1, keepdim=True)).clamp(max=1)
        mean = updates.mean(0)
        signal = float(mean.norm()) / setting.clip if signal is None else signal
        noise = torch.randn(dimension, generator=generator) * (ratio * setting.clip / dimension**0.5)
        flat = flat + server_rate * (mean + noise)
    first, bias, second, last = split(flat, hidden)
    images, labels = data.test
    guesses = ((images @ first + bias).relu() @ second + last).argmax(1)
    return float((guesses == labels).double().mean()), signal or 0.0


def measure(settings: Sequence[Setting], ratios: Sequence[float], seeds: Sequence[int]) -> Iterator[dict]:
    """One row per setting and ratio: mean accuracy over the seeds at the best server learning rate."""
    for setting, ratio in itertools.product(settings, ratios):
        outcomes = {rate: [train(setting, ratio, rate, seed) for seed in seeds] for rate in SERVER_RATES}
        means = {rate: sum(run[0] for run in runs) / len(runs) for rate, runs in outcomes.items()}
        best = max(means, key=lambda rate: means[rate])
        yield {
            **asdict(setting), "dimension": setting.dimension, "ratio": ratio, "accuracy": means[best],
            "server_rate": best, "by_server_rate": means, "signal": outcomes[best][0][1],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all rows")
    parser.add_argument("--quick", action="store_true", help="one short series with one seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    series = (SETTINGS[:1], (0.0, 4.0, 60.0), SEEDS[:1]) if options.quick else (SETTINGS, RATIOS, SEEDS)
    rows = []
    for row in measure(*series):
        rows.append(row)
        print(
            f"epochs {row['epochs']:3}  clip {row['clip']:.1f}  d {row['dimension']:5}  ratio {row['ratio']:4.0f}  "
            f"accuracy {row['accuracy']:.3f}  at server rate {row['server_rate']}",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
