"""FLTrust: weights by the angle to an update that the server computed itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.errors import RuleError
from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule, require
from asyncfl.rules.weights import round_weights


@dataclass(frozen=True, slots=True, eq=False)
class FLTrust(Rule):
    """Inputs scaled to the length of `reference` [d] and weighted by their cosine to it, where that is positive.

    `reference` is an update trained on a small clean data set that is no client's: under differential privacy the
    aggregate is else no longer post-processing. Zero where no input points its way.
    """

    facts: ClassVar[Facts] = Facts(
        sees="norms, and angles to the reference", cost="O(n d)", bound="any f, if the reference is good",
        source="Cao, Fang, Liu, Gong, NDSS 2021, algorithm 2",
    )  # fmt: skip

    reference: Tensor

    def __post_init__(self) -> None:
        usable = self.reference.dim() == 1 and bool(torch.isfinite(self.reference).all())
        require(
            usable and bool((self.reference != 0).any()), "reference: a finite update [d] that is not zero"
        )

    def least_inputs(self, byzantine: int) -> int:
        return max(1, byzantine)

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        if updates.shape[1] != len(self.reference):
            raise RuleError(
                f"updates have {updates.shape[1]} coordinates, the reference {len(self.reference)}; both must be of "
                "one model"
            )
        reference = self.reference.to(updates.dtype)[None]
        own, others = exact.norms(reference), exact.norms(updates)
        products = exact.inner_products(updates, reference)[:, 0]
        trust = (products / (own * others)).nan_to_num(0.0).clamp(min=0.0)
        if not (trust > 0).any():
            return torch.zeros(updates.shape[1], dtype=torch.float64)
        scales = torch.where(trust > 0, own / others, torch.zeros_like(others))
        return exact.weighted_sum(updates, round_weights(trust) * scales)
