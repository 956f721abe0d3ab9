"""FLTrust: weights by the angle to an update that the server computed itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
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

    Of any finite size: only an input's direction counts.

    `reference` is an update trained on a small clean data set that is no client's: under differential privacy the
    aggregate is else no longer post-processing. Zero where no input points its way.
    """

    facts: ClassVar[Facts] = Facts(
        sees="norms, and angles to the reference", cost="O(n d)", bound="any f, if the reference is good",
        source="Cao, Fang, Liu, Gong, NDSS 2021, algorithm 2",
    )  # fmt: skip

    largest: ClassVar[float] = inf

    reference: Tensor

    def __post_init__(self) -> None:
        given = self.reference
        tensor = isinstance(given, Tensor)
        require(tensor, f"reference = {given!r:.60}: must be a tensor [d]; make one with torch.as_tensor")
        require(given.dim() == 1, f"reference of shape {list(given.shape)}: must be one update [d]")
        broken = int((~torch.isfinite(given)).sum())
        require(not broken, f"reference: {broken} coordinates are not finite; train it anew")
        require(bool((given != 0).any()), "reference: must not be zero, which points nowhere; train it anew")

    def least_inputs(self, byzantine: int) -> int:
        return max(1, byzantine)

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        if updates.shape[1] != len(self.reference):
            raise RuleError(
                f"updates have {updates.shape[1]} coordinates, the reference {len(self.reference)}; both must be of "
                "one model"
            )
        reference, power = exact.of_middle_size(self.reference.detach().cpu().to(torch.float64)[None])
        inputs, _ = exact.of_middle_size(updates)
        own, others = exact.norms(reference), exact.norms(inputs)
        products = exact.inner_products(inputs, reference)[:, 0]
        trust = (products / (own * others)).nan_to_num(0.0).clamp(min=0.0)
        if not (trust > 0).any():
            return torch.zeros(updates.shape[1], dtype=torch.float64)
        scales = torch.where(trust > 0, own / others, torch.zeros_like(others))
        return exact.weighted_sum(inputs, round_weights(trust) * scales) * exact.power_of_two(-power)
