"""What every aggregation rule is: options, a bound on bad inputs, and a function of the inputs to one vector.

A rule gets n inputs of d coordinates, of which up to f may be anything. It is deterministic to the last bit, whatever
machine and number of threads: coordinates are sorted, or added as fixed trees of float64 additions; inner products are
exact integers (`exact`). Rules do not look at who sent an input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import ClassVar, Final

import torch
from torch import Tensor

from asyncfl.errors import ParameterError, RuleError

TYPES: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Of inputs. Those of half precision are computed with as float32."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reader wants to know of a rule before choosing it.

    `sees` says what it looks at, `cost` its time for n inputs of d coordinates, `bound` how many bad ones it stands.
    """

    sees: str
    cost: str
    bound: str
    source: str


class Rule(ABC):
    """An aggregation rule with its options."""

    facts: ClassVar[Facts]
    largest: ClassVar[float] = 2.0**120
    """Coordinates beyond count as this: squares, and sums of them, stay within float64."""

    def least_inputs(self, byzantine: int) -> int:
        """How many inputs it needs to stand `byzantine` bad ones among them: a majority, unless a rule says more."""
        return 2 * byzantine + 1

    @abstractmethod
    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        """The aggregate, float64 [d], of checked `updates` [n, d] of which `byzantine` may be bad."""

    def check(self, inputs: int, byzantine: int) -> None:
        """Raise `RuleError` where `inputs` are too few for `byzantine` bad ones, or that is no number of inputs."""
        if not is_whole(byzantine):
            raise RuleError(
                f"byzantine = {byzantine!r}: a whole number of bad inputs; of a share s of them that is ceil(s * n)"
            )
        if byzantine < 0:
            raise RuleError(f"byzantine = {byzantine}: a number of bad inputs cannot be negative")
        least = self.least_inputs(byzantine)
        if inputs < least:
            raise RuleError(
                f"{type(self).__name__} stands {byzantine} bad inputs among {least} or more ({self.facts.bound}), and "
                f"got {inputs}; give it more inputs, or expect fewer bad ones"
            )

    def __call__(self, updates: Tensor, byzantine: int = 0) -> Tensor:
        """The aggregate [d] of `updates` [n, d], in their dtype.

        Raises `RuleError` for what is no such tensor, inputs that are not finite, or too few for `byzantine` bad ones,
        and an aggregate beyond the range of their dtype.
        """
        return self.returned(self.combine(self.admit(updates, byzantine), byzantine), updates)

    def returned(self, aggregate: Tensor, updates: Tensor) -> Tensor:
        """`aggregate` [d] on the device and in the dtype of `updates`. Raises `RuleError` where it does not fit."""
        result = aggregate.to(updates.dtype)
        if not bool(torch.isfinite(result).all()):
            raise RuleError(
                f"the aggregate is beyond the range of the updates' {updates.dtype}; give them in a wider type"
            )
        return result.to(updates.device)

    def admit(self, updates: Tensor, byzantine: int) -> Tensor:
        """The inputs as rules take them: on the CPU, float32 or float64, bounded. Raises `RuleError`."""
        if not isinstance(updates, Tensor):
            raise RuleError(
                f"updates must be a tensor [n, d], not {type(updates).__name__}; make one with torch.from_numpy of an "
                "array, torch.stack of a list of tensors"
            )
        if updates.dim() != 2 or not updates.shape[1] or updates.dtype not in TYPES or updates.is_sparse:
            raise RuleError(
                f"updates must be a floating-point tensor [n, d >= 1] of 16 bits or more and not sparse, not "
                f"{updates.dtype} {list(updates.shape)} {updates.layout}"
            )
        self.check(len(updates), byzantine)
        extent = torch.maximum(updates.detach().amax(dim=1), -updates.detach().amin(dim=1))  # NaN stays NaN.
        broken = (~torch.isfinite(extent)).nonzero().flatten().tolist()
        if broken:
            raise RuleError(
                f"inputs {broken} have coordinates that are not finite; leave them out before aggregating"
            )
        inputs = updates.detach().cpu()
        if inputs.dtype.itemsize < 4:
            inputs = inputs.float()
        return inputs.clamp(-self.largest, self.largest) if bool((extent > self.largest).any()) else inputs


def require(condition: bool, message: str) -> None:
    """Raise `ParameterError` with `message` unless `condition`: for options."""
    if not condition:
        raise ParameterError(message)


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number, NumPy's among them."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether `value` is a number, and a finite one."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
