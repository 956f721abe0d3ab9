"""The flat model: how a state dict travels as one float32 vector, and what a local training returns.

Flat order: every trained floating tensor ("weight") in state-dict order, then every floating buffer (such
as BatchNorm's running statistics) in state-dict order. float16, bfloat16, float32 and float64 tensors are
carried as float32 and cast back. Everything else (integer counters, frozen parameters) stays with the
template that the receiver builds itself. Tied tensors travel once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Final, Literal, Self

import numpy as np
import torch
from torch import Tensor

from asyncfl.errors import ConfigurationError

CARRIED: Final[Mapping[torch.dtype, str]] = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}
"""Dtypes that the flat float32 vector carries."""

Kind = Literal["weight", "buffer"]


class LayoutError(ConfigurationError):
    """A state dict, flat vector or model file that does not fit the layout; names the tensor."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the state dict. `aliases` are further names of the same (tied) tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Which tensors of a state dict the flat vector carries, and where."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls, state: Mapping[str, Tensor], parameter_names: Collection[str], *, frozen: Collection[str] = ()
    ) -> Self:
        """The layout of `state`: names in `parameter_names` are weights, other floating tensors buffers.

        `frozen` names stay with the template. Raises `LayoutError` when a tensor that would have to travel
        has a dtype that float32 cannot carry, or when nothing would travel.
        """
        first: dict[tuple[object, ...], str] = {}
        aliases: dict[str, list[str]] = {}
        kinds: dict[Kind, list[str]] = {"weight": [], "buffer": []}
        for name, tensor in state.items():
            trained = name in parameter_names
            if name in frozen or (tensor.dtype not in CARRIED and not trained and not _is_inexact(tensor)):
                continue
            if tensor.dtype not in CARRIED:
                raise LayoutError(
                    f"tensor {name!r} is {tensor.dtype}: only {', '.join(CARRIED.values())} can travel; "
                    "convert it, or freeze it (requires_grad_(False))"
                )
            owner = first.setdefault(_place(name, tensor), name)
            if owner != name:
                aliases[owner].append(name)
                continue
            aliases[name] = []
            kinds["weight" if trained else "buffer"].append(name)
        if not kinds["weight"]:
            raise LayoutError("the model has no trainable floating parameter: there is nothing to train")
        return cls(
            tuple(
                Entry(name, tuple(state[name].shape), CARRIED[state[name].dtype], kind, tuple(aliases[name]))
                for kind in ("weight", "buffer")
                for name in kinds[kind]
            )
        )

    @classmethod
    def of_module(cls, module: torch.nn.Module, *, frozen_buffers: bool = False) -> Self:
        """The layout of `module.state_dict()`: parameters with `requires_grad` travel, frozen ones do not.

        With `frozen_buffers` no buffer travels.
        """
        state = module.state_dict()
        parameters = dict(module.named_parameters(remove_duplicate=False))
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        frozen = (state if frozen_buffers else parameters).keys() - trained
        return cls.of(state, trained, frozen=frozen)

    @cached_property
    def weights(self) -> int:
        """Coordinates [0, weights) are trained parameters."""
        return sum(entry.size for entry in self.entries if entry.kind == "weight")

    @cached_property
    def buffers(self) -> int:
        """Coordinates [weights, weights + buffers) are buffers."""
        return sum(entry.size for entry in self.entries if entry.kind == "buffer")

    @property
    def dimension(self) -> int:
        return self.weights + self.buffers

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """A new float32 tensor [dimension], on the device of the first entry. Raises `LayoutError`."""
        device = self._tensor(state, self.entries[0]).device
        flat = torch.empty(self.dimension, dtype=torch.float32, device=device)
        for entry, part in self._parts(flat):
            part.copy_(self._tensor(state, entry).detach())
        return flat

    def write(self, flat: Tensor, state: Mapping[str, Tensor]) -> None:
        """Copy `flat` [dimension] into the tensors of `state` in place, casting; the rest stays.

        With `module.state_dict()` this loads the module itself. Raises `LayoutError`.
        """
        if tuple(flat.shape) != (self.dimension,):
            raise LayoutError(
                f"flat model has shape {tuple(flat.shape)}, the layout needs ({self.dimension},)"
            )
        with torch.no_grad():
            for entry, part in self._parts(flat):
                self._tensor(state, entry).copy_(part)
                for alias in entry.aliases:
                    if state[alias].data_ptr() != state[entry.name].data_ptr():
                        state[alias].copy_(part)

    def unflatten(self, flat: Tensor, template: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A full state dict of fresh tensors: floating ones from `flat`, the rest copied from `template`."""
        state = {name: tensor.detach().clone() for name, tensor in template.items()}
        self.write(flat, state)
        return state

    def describe(self) -> str:
        """JSON text that `parse` reads: goes into model files, so that no code is needed to read them."""
        return json.dumps(
            [
                [entry.name, list(entry.shape), entry.dtype, entry.kind, list(entry.aliases)]
                for entry in self.entries
            ],
            separators=(",", ":"),
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `describe`. Raises `LayoutError`."""
        try:
            return cls(
                tuple(
                    Entry(
                        str(name),
                        tuple(map(int, shape)),
                        _known(dtype),
                        _kind(kind),
                        tuple(map(str, aliases)),
                    )
                    for name, shape, dtype, kind, aliases in json.loads(text)
                )
            )
        except (ValueError, TypeError) as error:
            raise LayoutError(f"malformed layout description: {error}") from error

    def _parts(self, flat: Tensor) -> Iterator[tuple[Entry, Tensor]]:
        start = 0
        for entry in self.entries:
            yield entry, flat[start : start + entry.size].view(entry.shape)
            start += entry.size

    def _tensor(self, state: Mapping[str, Tensor], entry: Entry) -> Tensor:
        tensor = state.get(entry.name)
        if tensor is None:
            raise LayoutError(f"the state dict has no tensor {entry.name!r}")
        if tuple(tensor.shape) != entry.shape or CARRIED.get(tensor.dtype) != entry.dtype:
            raise LayoutError(
                f"tensor {entry.name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the layout needs {entry.dtype} {entry.shape}"
            )
        return tensor


def model_bytes(flat: Tensor) -> bytes:
    """Canonical bytes of a flat model: little-endian float32. Its content digest names the model."""
    if flat.dtype != torch.float32 or flat.ndim != 1:
        raise LayoutError(f"a flat model is a float32 vector, not {flat.dtype} {tuple(flat.shape)}")
    return flat.detach().cpu().numpy().astype("<f4", copy=False).tobytes()


def flat_from_bytes(data: bytes | bytearray | memoryview, dimension: int | None = None) -> Tensor:
    """A float32 CPU tensor [len(data) / 4] from canonical bytes; a copy. Raises `LayoutError`.

    `dimension`: refuse any other length.
    """
    size = memoryview(data).nbytes
    if size % 4 or (dimension is not None and size != 4 * dimension):
        needed = "a multiple of 4" if dimension is None else f"{4 * dimension} ({dimension} float32)"
        raise LayoutError(
            f"model of {size} bytes, expected {needed}: the task builds another model than this deployment's"
        )
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What one local training gives.

    `update`: float32 [dimension], trained minus received, on the training device. `examples`: how many the
    client holds (FedAvg's weight). `loss`: mean training loss. `seconds`: wall time. `steps`: done, of `planned`;
    both 0 where the task does not count them.
    """

    update: Tensor
    examples: int
    loss: float
    seconds: float
    steps: int = 0
    planned: int = 0


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _place(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Equal for tied tensors alone. Empty tensors and those without storage are tied to nothing."""
    if tensor.numel() == 0 or tensor.is_meta:
        return (name,)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _known(dtype: str) -> str:
    if dtype not in CARRIED.values():
        raise ValueError(f"unknown dtype {dtype!r}")
    return dtype


def _kind(kind: str) -> Kind:
    if kind == "weight":
        return "weight"
    if kind == "buffer":
        return "buffer"
    raise ValueError(f"unknown kind {kind!r}")
