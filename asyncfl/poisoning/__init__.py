"""Attacks on learning: what malicious clients make of their data and updates before they mask them.

>>> attack = make_attack("label-flip")
>>> attack = make_attack("label-flip+scaling")           # both, in every attacker
>>> attack = make_attack("gaussian-noise|backdoor")      # the one or the other, attackers in turn

`ATTACKS` has them by name, with what each tries, what it knows, and its source. Nothing that a node loads imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncfl.errors import ConfigurationError
from asyncfl.poisoning.adaptive import FangKrum, FangTrimmedMean, FedAOTAdaptive
from asyncfl.poisoning.collusion import ALittleIsEnough, InnerProduct, Mimic, Sybils, reach
from asyncfl.poisoning.combination import Divided, Together
from asyncfl.poisoning.examples import Backdoor, LabelFlip, MultiLabelFlip
from asyncfl.poisoning.interface import Attack, Data, Facts, Forged, Sight, Trigger
from asyncfl.poisoning.updates import GaussianNoise, ModelReplacement, Scaling, SignFlip

ATTACKS: Final[dict[str, type[Attack]]] = {
    "label-flip": LabelFlip,
    "multi-label-flip": MultiLabelFlip,
    "backdoor": Backdoor,
    "sign-flip": SignFlip,
    "scaling": Scaling,
    "model-replacement": ModelReplacement,
    "gaussian-noise": GaussianNoise,
    "a-little-is-enough": ALittleIsEnough,
    "inner-product": InnerProduct,
    "mimic": Mimic,
    "sybils": Sybils,
    "fang-krum": FangKrum,
    "fang-trimmed-mean": FangTrimmedMean,
    "fedaot-adaptive": FedAOTAdaptive,
}


def make_attack(name: str) -> Attack:
    """The attack of that name; `a|b`: some attackers do a, others b; `a+b`: all do a, then b, which binds closer.

    Raises `ConfigurationError` for a name that there is none of.
    """
    divided = [_together(part) for part in name.split("|")]
    return divided[0] if len(divided) == 1 else Divided(tuple(divided))


def _together(name: str) -> Attack:
    parts = [_single(part.strip()) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else Together(tuple(parts))


def _single(name: str) -> Attack:
    make: Callable[[], Attack] | None = ATTACKS.get(name)
    if make is None:
        raise ConfigurationError(f"no attack on learning is called {name!r}; there are {', '.join(ATTACKS)}")
    return make()


__all__ = [
    "ATTACKS", "ALittleIsEnough", "Attack", "Backdoor", "Data", "Divided", "Facts", "FangKrum", "FangTrimmedMean",
    "FedAOTAdaptive", "Forged", "GaussianNoise", "InnerProduct", "LabelFlip", "Mimic", "ModelReplacement",
    "MultiLabelFlip", "Scaling", "Sight", "SignFlip", "Sybils", "Together", "Trigger", "make_attack", "reach",
]  # fmt: skip
