"""Epsilon of one client's uploads under noise that the members of its groups add together.

Mechanism: an upload's integer vector, of L2 norm at most L, becomes public only in a sum to which h honest
members add discrete Gaussian noise of standard deviation sigma = z*L/sqrt(h) on every coordinate. Adjacency:
user level, zero-out (a client's vector or zeros in its place; replacing it by another has sensitivity 2L).
One event per upload written; no amplification is claimed, from shuffling or sampling.

A sum of discrete Gaussians is not quite a discrete Gaussian. Source of the bounds used here: Kairouz, Liu,
Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation" (ICML
2021, arXiv 2102.06387), Theorem 1 and Proposition 14, with the correction

    tau = 10 * sum over k = 1..h-1 of exp(-2 pi^2 sigma^2 k/(k+1)).

They are concentrated DP bounds, which `dp_accounting` composes and converts (Canonne, Kamath, Steinke,
arXiv 2004.00010, Proposition 12).

The sampler (`asyncfl.ring.gaussian`) is taken as exact. It is within a factor 1 + 2^-50 pointwise, which over
k uploads of d coordinates would add at most 2*k*h*d*2^-50 to epsilon (1e-5 for 120 uploads, 32 members and a
million coordinates).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, pi, sqrt
from typing import Final

from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent, ZCDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from asyncfl.errors import ParameterError
from asyncfl.parameters import Parameters

SMALLEST_SIGMA: Final = 0.5
"""The bounds on sums hold from here on (arXiv 2102.06387, Theorem 11)."""
ORDERS: Final = tuple(1 + 2 ** (k / 16) for k in range(-96, 320))
"""Renyi orders 1.016 to 1e6, each 4 % above the last: the best of them costs less than 0.1 % of epsilon, or 1e-5."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """The noise that protects one upload. Raises `ParameterError` where no bound is known.

    `noise_multiplier` z > 0; `members` h >= 1 who are assumed to add their noise; `sensitivity` L >= 1, the
    largest L2 norm of an upload's integer vector; `dimension` d >= 1, its coordinates.
    """

    noise_multiplier: float
    members: int
    sensitivity: int
    dimension: int

    def __post_init__(self) -> None:
        if not (isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ParameterError(
                f"noise_multiplier {self.noise_multiplier}: without noise there is no epsilon; set it above 0"
            )
        if min(self.members, self.sensitivity, self.dimension) < 1:
            raise ParameterError(
                f"{self.members} honest members, scale {self.sensitivity}, {self.dimension} coordinates: each "
                "must be at least 1"
            )
        if self.sigma < SMALLEST_SIGMA:
            raise ParameterError(
                f"noise_multiplier {self.noise_multiplier} gives each client noise of standard deviation "
                f"{self.sigma:.2g}, and no bound is known below {SMALLEST_SIGMA}; raise it to at least "
                f"{SMALLEST_SIGMA * sqrt(self.members) / self.sensitivity:.2g}"
            )

    @classmethod
    def of(cls, parameters: Parameters, dimension: int) -> Mechanism:
        """That of a deployment whose flat model has `dimension` coordinates."""
        return cls(
            parameters.noise_multiplier,
            parameters.honest_members,
            parameters.scale,
            parameters.upload_dimension(dimension),
        )

    @property
    def sigma(self) -> float:
        """Standard deviation of one member's noise, at least; the ring-LWE error can only be larger."""
        return self.noise_multiplier * self.sensitivity / sqrt(self.members)

    @property
    def tau(self) -> float:
        """How far the sum of the members' noise is from a discrete Gaussian. 0 for one member."""
        decay = -2 * (pi * self.sigma) ** 2
        return 10 * sum(exp(decay * k / (k + 1)) for k in range(1, self.members))

    @property
    def events(self) -> tuple[ZCDpEvent, ZCDpEvent]:
        """Two concentrated DP bounds that both hold: D_alpha <= xi + rho * alpha for all alpha >= 1.

        The third of Proposition 14, (L/s + tau sqrt(d))^2 / 2, is never below the second, because the L1 norm
        of an integer vector is at most min(L sqrt(d), L^2).
        """
        tau, d, scaled = self.tau, self.dimension, 1 / self.noise_multiplier
        absolute = scaled * min(sqrt(d), self.sensitivity)
        return (
            ZCDpEvent(rho=scaled**2 / 2, xi=tau * d),
            ZCDpEvent(rho=(scaled**2 + 2 * absolute * tau + tau**2 * d) / 2),
        )


def renyi_divergence(mechanism: Mechanism, order: float) -> float:
    """Upper bound on the Renyi divergence of one upload, `order` >= 1, in nats."""
    return float(min(event.xi + event.rho * order for event in mechanism.events))


def epsilon(mechanism: Mechanism, uploads: int, delta: float) -> float:
    """Epsilon at `delta` in (0, 1) after `uploads` >= 0 uploads. Raises `ParameterError`."""
    check_delta(delta)
    check_uploads(uploads)
    if uploads == 0:
        return 0.0
    best = inf
    for event in mechanism.events:
        accountant = RdpAccountant(ORDERS, NeighboringRelation.REPLACE_SPECIAL)
        accountant.compose(SelfComposedDpEvent(event, uploads))
        best = min(best, float(accountant.get_epsilon(delta)))
    return best


def approximate_epsilon(noise_multiplier: float, uploads: int, delta: float) -> float:
    """Epsilon by privacy loss distributions, as if the noise were one continuous Gaussian: an approximation.

    Not a bound for this system, but close to the truth: it shows what the bound of `epsilon` gives away.
    """
    check_delta(delta)
    check_uploads(uploads)
    if not (isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ParameterError(f"noise_multiplier {noise_multiplier}: without noise there is no epsilon")
    if uploads == 0:
        return 0.0
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    # k Gaussians of multiplier z are exactly as one of z/sqrt(k).
    accountant.compose(GaussianDpEvent(noise_multiplier / sqrt(uploads)))
    return float(accountant.get_epsilon(delta))


def check_delta(delta: float) -> None:
    """Raises `ParameterError` unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise ParameterError(f"delta {delta}: a probability between 0 and 1 is needed, such as 1e-5")


def check_uploads(uploads: int) -> None:
    """Raises `ParameterError` for a negative count."""
    if uploads < 0:
        raise ParameterError(f"{uploads} uploads: a count of at least 0 is needed")
