"""Rules as a run uses them: with the reference that FLTrust needs, and with what FedAOT carries over epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from asyncfl.rules import FedAOT, FLTrust, Rule, Trust, make_rule
from node.experiment.poisoning.configuration import WITHOUT_HOLDOUT


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """What replicas do with their clean examples.

    `reference`: the update [d] that a training on them gives from the present model. `gradient`: that of the loss on
    them, at the model that an aggregate [d] makes of it.
    """

    reference: Callable[[], Tensor]
    gradient: Callable[[Tensor], Tensor]


class Defence(ABC):
    """One run's rule."""

    @abstractmethod
    def aggregate(self, inputs: Tensor, byzantine: int, holdout: Holdout) -> tuple[Tensor, Tensor | None]:
        """The aggregate [d] of `inputs` [n, d], and the weights [n] that they had, where the rule has such."""

    @abstractmethod
    def stands(self, inputs: int, byzantine: int) -> int:
        """The most bad inputs, up to `byzantine`, for which the rule takes so many inputs."""


class Plain(Defence):
    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def stands(self, inputs: int, byzantine: int) -> int:
        return most(self._rule, inputs, byzantine)

    def aggregate(self, inputs: Tensor, byzantine: int, holdout: Holdout) -> tuple[Tensor, Tensor | None]:
        return self._rule(inputs, byzantine), None


class Trusting(Defence):
    """FLTrust, with a new reference for each model."""

    def stands(self, inputs: int, byzantine: int) -> int:
        return byzantine

    def aggregate(self, inputs: Tensor, byzantine: int, holdout: Holdout) -> tuple[Tensor, Tensor | None]:
        return FLTrust(reference=holdout.reference().cpu())(inputs, byzantine), None


class Learning(Defence):
    """FedAOT, with a hold-out set or by agreement alone."""

    def __init__(self, trust: Trust, *, by_agreement: bool) -> None:
        self.trust = trust
        self._by_agreement = by_agreement

    def stands(self, inputs: int, byzantine: int) -> int:
        return most(FedAOT(), inputs, byzantine)

    def aggregate(self, inputs: Tensor, byzantine: int, holdout: Holdout) -> tuple[Tensor, Tensor | None]:
        gradient = None if self._by_agreement else holdout.gradient
        weighed = FedAOT(trust=self.trust).step(inputs, byzantine, gradient)
        self.trust = weighed.trust
        return weighed.aggregate, weighed.weights

    def learned(self) -> Trust:
        """What it has learned, without what belongs to one model."""
        return replace(Trust(), weights=self.trust.weights, temperature=self.trust.temperature)


def most(rule: Rule, inputs: int, byzantine: int) -> int:
    """The most bad inputs, up to `byzantine`, that `rule` stands among `inputs`; 0 if it takes so few at all."""
    return next((bad for bad in range(byzantine, 0, -1) if rule.least_inputs(bad) <= inputs), 0)


def make_defence(rule: str, trust: Trust | None) -> Defence:
    """`trust`: what FedAOT begins with; None: as it comes."""
    if rule == "fltrust":
        return Trusting()
    if rule in ("fedaot", WITHOUT_HOLDOUT):
        return Learning(trust or Trust(), by_agreement=rule == WITHOUT_HOLDOUT)
    return Plain(make_rule(rule))
