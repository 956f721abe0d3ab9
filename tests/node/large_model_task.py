"""A task of any size without data: one linear layer, trained by adding a constant."""

import torch
from torch import nn

from asyncfl.messages import Settings

STEP = 8 / 32768
"""A whole number of the units that updates are rounded to (clip 1, scale 2^15)."""


class ConstantTask:
    """`rows * columns` parameters, zero at first; every training adds STEP to each of them."""

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = (rows, columns)

    def model(self) -> nn.Module:
        rows, columns = self._shape
        module = nn.Linear(columns, rows, bias=False)
        nn.init.zeros_(module.weight)
        return module

    def train(
        self, module: nn.Module, client_index: int, settings: Settings, epoch: int
    ) -> tuple[int, float]:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(STEP)
        return 1, 0.0

    def evaluate(self, module: nn.Module) -> float:
        """1 if the model is the same in all coordinates up to noise, as every update is."""
        (weight,) = module.parameters()
        return float(weight.std() < STEP)


def constant(*, clients: int, seed: int = 0, rows: int = 1000, columns: int = 1000) -> ConstantTask:
    return ConstantTask(rows, columns)
