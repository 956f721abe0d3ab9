"""Attacks that know the rule, and go as far as it lets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from asyncfl.poisoning.collusion import ALL
from asyncfl.poisoning.examples import LabelFlip
from asyncfl.poisoning.interface import Attack, Facts, Forged, Sight, generator, lengths
from asyncfl.rules.exact import squared_distances
from asyncfl.rules.fedaot import FedAOT, Trust
from asyncfl.rules.krum import krum_scores, smallest

SMALLEST: Final = 1e-5
"""Where Fang's halving ends."""
BISECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class FangKrum(Attack):
    """All attackers send the longest -lambda * sign(honest mean) that Krum still chooses.

    lambda starts at the source's upper bound and is halved.
    """

    facts: ClassVar[Facts] = Facts(
        tries="has Krum choose an update against the honest direction", knows=ALL,
        source="Fang, Cao, Jia, Gong, USENIX Security 2020, section 3.3",
    )  # fmt: skip

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        against = -torch.sign(sight.direction)
        length, bad = self._bound(sight), len(sight.own)
        while length > SMALLEST:
            everybody = torch.cat([(length * against).expand(bad, -1), sight.seen])
            scores = krum_scores(squared_distances(everybody.cpu()), bad)
            if smallest(scores, 1)[0] < bad:
                break
            length /= 2
        return Forged((length * against).expand(bad, -1).clone())

    def _bound(self, sight: Sight) -> float:
        """Theorem 1 of the source. One update alone does not tell how far apart others are: its length is the bound."""
        dimension, count, bad = sight.seen.shape[1], len(sight.seen) + len(sight.own), len(sight.own)
        furthest = float(lengths(sight.seen).max())
        spread = 0.0
        if len(sight.seen) > 1:
            scores = krum_scores(squared_distances(sight.seen.cpu()), 0)
            spread = float(scores.min()) / max(1, count - 2 * bad - 1)
        return float(((spread / dimension) ** 0.5) + furthest / dimension**0.5)


@dataclass(frozen=True, slots=True)
class FangTrimmedMean(Attack):
    """Every coordinate just beyond what honest ones have, on the side against their mean's sign.

    Up to `factor` times as far from zero; also against the median.
    """

    facts: ClassVar[Facts] = Facts(
        tries="has every coordinate trimmed on the wrong side", knows=ALL,
        source="Fang, Cao, Jia, Gong, USENIX Security 2020, section 3.4",
    )  # fmt: skip

    factor: float = 2.0

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        high, low = sight.seen.amax(0), sight.seen.amin(0)
        beyond_high = torch.where(high > 0, high * self.factor, high / self.factor)
        beyond_low = torch.where(low > 0, low / self.factor, low * self.factor)
        rising = sight.direction > 0
        near, far = torch.where(rising, low, high), torch.where(rising, beyond_low, beyond_high)
        rows = []
        for attacker in sight.attackers:
            draw = generator("fang-trimmed-mean", sight.seed, sight.epoch, attacker)
            part = torch.rand(len(near), generator=draw).to(near)
            rows.append(near + part * (far - near))
        return Forged(torch.stack(rows))


@dataclass(frozen=True, slots=True)
class FedAOTAdaptive(LabelFlip):
    """As much of a poisoned update, at honest length, as FedAOT's features take for an honest one.

    The attackers learn flipped labels. What of their mean is not along the honest mean is mixed into it, and cut to the
    median honest length; by bisection as much as leaves them at least the honest updates' mean weight under FedAOT as
    it begins, with references that point along the honest mean.
    """

    facts: ClassVar[Facts] = Facts(
        tries="gets poison past cosines, lengths and agreement alike", knows=ALL,
        source="our own, against arXiv 2603.16846; the bisection as in Fang et al. 2020, section 3.3",
    )  # fmt: skip

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        mean = sight.direction
        poison = sight.own.mean(0)
        size = float(mean @ mean)
        across = poison - mean * (float(poison @ mean) / size if size > 0 else 0.0)
        length = float(lengths(sight.seen).median())
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self._passes(_mix(mean, across, middle, length), sight) else (low, middle)
            )
        return Forged(_mix(mean, across, low, length).expand(len(sight.own), -1).clone())

    def _passes(self, forged: Tensor, sight: Sight) -> bool:
        everybody = torch.cat([forged.expand(len(sight.own), -1), sight.seen]).cpu()
        mean = sight.direction.cpu()
        rule = FedAOT(trust=Trust(past=mean, gradient=-mean))
        weights = rule.step(everybody).weights
        return float(weights[0]) >= float(weights[len(sight.own) :].mean())


def _mix(mean: Tensor, across: Tensor, share: float, length: float) -> Tensor:
    """An update [d] of that length; `share` 0 is along the mean, 1 along `across`."""
    one = mean / torch.linalg.vector_norm(mean).clamp(min=1e-30)
    other = across / torch.linalg.vector_norm(across).clamp(min=1e-30)
    mixed: Tensor = (1 - share) * one + share * other
    return mixed * (length / float(torch.linalg.vector_norm(mixed).clamp(min=1e-30)))
