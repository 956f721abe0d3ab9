"""Two ways to compute what FedAOT needs: fast, or the same to the last bit on every machine, as replicas must.

The fast one multiplies float32 matrices in an order of the library's choice. The exact one adds integers, or fixed
trees of float64 numbers, and has elementary functions of its own; it takes longer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from asyncfl.rules import elementary, exact


class Arithmetic(ABC):
    """What takes inputs `updates` float32 [n, d], and functions of few numbers, float64."""

    @abstractmethod
    def lengths(self, updates: Tensor) -> Tensor:
        """float64 [n]."""

    @abstractmethod
    def products(self, updates: Tensor, others: Tensor) -> Tensor:
        """Inner products with `others` float32 [m, d], float64 [n, m]."""

    @abstractmethod
    def weighted_sum(self, updates: Tensor, weights: Tensor) -> Tensor:
        """float32 [d], with `weights` float64 [n]."""

    @abstractmethod
    def exp(self, values: Tensor) -> Tensor: ...

    @abstractmethod
    def log(self, values: Tensor) -> Tensor: ...

    @abstractmethod
    def tanh(self, values: Tensor) -> Tensor: ...


class _Fast(Arithmetic):
    def lengths(self, updates: Tensor) -> Tensor:
        result: Tensor = torch.linalg.vector_norm(updates, dim=1)
        return result.double()

    def products(self, updates: Tensor, others: Tensor) -> Tensor:
        return (updates @ others.T).double()

    def weighted_sum(self, updates: Tensor, weights: Tensor) -> Tensor:
        result: Tensor = weights.float() @ updates
        return result

    def exp(self, values: Tensor) -> Tensor:
        return values.exp()

    def log(self, values: Tensor) -> Tensor:
        return values.log()

    def tanh(self, values: Tensor) -> Tensor:
        return values.tanh()


class _Exact(Arithmetic):
    def lengths(self, updates: Tensor) -> Tensor:
        return exact.norms(updates)

    def products(self, updates: Tensor, others: Tensor) -> Tensor:
        return exact.inner_products(updates, others)

    def weighted_sum(self, updates: Tensor, weights: Tensor) -> Tensor:
        return exact.weighted_sum(updates, weights).float()

    def exp(self, values: Tensor) -> Tensor:
        return _each(elementary.exp, values)

    def log(self, values: Tensor) -> Tensor:
        return _each(elementary.log, values)

    def tanh(self, values: Tensor) -> Tensor:
        return _each(elementary.tanh, values)


def _each(function: Callable[[float], float], values: Tensor) -> Tensor:
    numbers = [function(number) for number in values.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.float64).view(values.shape)


FAST: Arithmetic = _Fast()
EXACT: Arithmetic = _Exact()
