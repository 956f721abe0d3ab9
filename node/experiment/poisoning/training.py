"""Local training of many clients at once, each from the same model on its own examples.

What `SupervisedTask` does for one client, for all of them in one pass: with small models the time goes into calls, not
into arithmetic. Batches are always full: a client's examples are shuffled for every pass, one after the other without a
break, so that a batch may hold the end of one pass and the beginning of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from asyncfl.messages import Settings
from asyncfl.model import Layout
from asyncfl.poisoning.interface import generator
from node.experiment.poisoning.world import ConvNet, Labelled

AT_ONCE: Final = 256
"""Clients that are trained side by side: more only takes memory."""


class CohortTrainer:
    """Plain SGD on cross-entropy. `seed` and the client's number, not who else trains, say which batches it sees."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        layout: Layout,
        seed: bytes,
        device: torch.device,
        *,
        convolves: bool,
    ) -> None:
        """`convolves`: on a CPU clients take turns, because a convolution for each of many is slower there."""
        self._layout, self._seed, self._device = layout, seed, device
        self._at_once = 1 if convolves and device.type == "cpu" else AT_ONCE
        module = build().to(device)
        if isinstance(module, ConvNet):
            module.side_by_side = self._at_once > 1

        def loss(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(functional_call(module, parameters, (inputs,)), labels)

        def slopes(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            leaves = {name: part.requires_grad_() for name, part in parameters.items()}
            found = torch.autograd.grad(loss(leaves, inputs, labels), list(leaves.values()))
            return dict(zip(leaves, found, strict=True))

        # For one client the tape takes three quarters of the time of a transformed function.
        self._one: Callable[..., dict[str, Tensor]] = slopes
        self._many: Callable[..., dict[str, Tensor]] = vmap(grad(loss))

    def train(
        self,
        model: Tensor,
        examples: Sequence[Labelled],
        numbers: Sequence[int],
        settings: Settings,
        epoch: int,
    ) -> Tensor:
        """The updates float32 [n, d], on the CPU, of clients `numbers` that hold `examples`, from `model` [d].

        `settings.local_steps` batches of `batch_size` at `learning_rate`; the rest of the settings is not looked at.
        """
        width = self._at_once
        parts = [
            self._train(model, examples[at : at + width], numbers[at : at + width], settings, epoch)
            for at in range(0, len(numbers), width)
        ]
        return torch.cat(parts)

    def _train(
        self,
        model: Tensor,
        examples: Sequence[Labelled],
        numbers: Sequence[int],
        settings: Settings,
        epoch: int,
    ) -> Tensor:
        steps, size = settings.local_steps, settings.batch_size
        orders = [
            self._order(len(labels), steps * size, number, epoch)
            for (_, labels), number in zip(examples, numbers, strict=True)
        ]
        start = self._split(model.to(self._device))
        parameters = {name: part.expand(len(numbers), *part.shape).clone() for name, part in start.items()}
        for step in range(steps):
            rows = [order[step * size : (step + 1) * size] for order in orders]
            pairs = list(zip(examples, rows, strict=True))
            inputs = torch.stack([own[row] for (own, _), row in pairs]).to(self._device)
            labels = torch.stack([own[row] for (_, own), row in pairs]).to(self._device)
            gradients = self._slopes(parameters, inputs, labels)
            for name, parameter in parameters.items():
                parameter.sub_(gradients[name], alpha=settings.learning_rate)
        moved = [(parameters[name] - part).flatten(1) for name, part in start.items()]
        return torch.cat(moved, dim=1).cpu()

    def _slopes(self, parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if len(inputs) > 1:
            return self._many(parameters, inputs, labels)
        alone = self._one({name: part[0].detach() for name, part in parameters.items()}, inputs[0], labels[0])
        return {name: part.unsqueeze(0) for name, part in alone.items()}

    def _order(self, count: int, wanted: int, number: int, epoch: int) -> Tensor:
        """Example numbers [wanted] in the order in which they are learned from."""
        draw = generator("batches", self._seed, number, epoch)
        passes = [torch.randperm(count, generator=draw) for _ in range(-(-wanted // count))]
        return torch.cat(passes)[:wanted]

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        """The model's tensors, by name."""
        entries: list[Any] = list(self._layout.entries)
        pieces = torch.split(flat, [entry.size for entry in entries])
        return {entry.name: piece.view(entry.shape) for entry, piece in zip(entries, pieces, strict=True)}
