"""How a model does: accuracy, each class counted alike, how often a trigger is obeyed; the hold-out gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from asyncfl.model import Layout
from asyncfl.poisoning import Trigger
from node.experiment.poisoning.world import Labelled
from node.training.supervised import EVALUATION_BATCH


@dataclass(frozen=True, slots=True)
class Look:
    """After `epoch` epochs. `balanced`: mean recall over the classes.

    `obeyed`: of the test examples of other classes that carry the trigger, those taken for its target; None without a
    backdoor. `on_classes`: accuracy on the chosen classes.
    """

    epoch: int
    accuracy: float
    balanced: float
    obeyed: float | None
    on_classes: float | None


class Judge:
    """A module of its own, on `device`, into which flat models are loaded."""

    def __init__(self, module: nn.Module, layout: Layout, device: torch.device) -> None:
        self._module = module.to(device).eval()
        self._layout = layout
        self._device = device

    def look(
        self,
        epoch: int,
        model: Tensor,
        test: Labelled,
        trigger: Trigger | None,
        classes: Sequence[int] | None,
    ) -> Look:
        """`model`: flat, float32 [d]."""
        self._load(model)
        inputs, labels = test
        right = self._predict(inputs) == labels
        recalls = [right[labels == label].double().mean() for label in torch.unique(labels)]
        obeyed = on_classes = None
        if trigger is not None:
            stamped = trigger.stamp(inputs[labels != trigger.target])
            obeyed = float((self._predict(stamped) == trigger.target).double().mean())
        if classes is not None:
            on_classes = float(right[torch.isin(labels, torch.tensor(classes))].double().mean())
        return Look(
            epoch, float(right.double().mean()), float(torch.stack(recalls).mean()), obeyed, on_classes
        )

    def gradient(self, model: Tensor, examples: Labelled) -> Tensor:
        """Of the loss on `examples` at the flat `model`, float32 [d] on the CPU; zero for buffers."""
        self._load(model)
        named = dict(self._module.named_parameters())
        parameters = [named[entry.name] for entry in self._layout.entries if entry.kind == "weight"]
        loss = cross_entropy(self._module(examples[0].to(self._device)), examples[1].to(self._device))
        parts = torch.autograd.grad(loss, parameters)
        flat = torch.zeros(self._layout.dimension)
        flat[: self._layout.weights] = torch.cat([part.flatten() for part in parts]).cpu()
        return flat

    @torch.no_grad()
    def _predict(self, inputs: Tensor) -> Tensor:
        batches = torch.split(inputs, EVALUATION_BATCH)
        return torch.cat([self._module(batch.to(self._device)).argmax(1).cpu() for batch in batches])

    def _load(self, model: Tensor) -> None:
        self._layout.write(model.to(self._device), self._module.state_dict())
