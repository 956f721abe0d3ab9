"""What a privacy budget means for training, before anybody trains: noise, its size, a verdict, what would help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite, sqrt
from typing import Any, Final

from asyncfl.errors import ParameterError
from asyncfl.parameters import MAX_GROUP, SMALLEST_PRIVATE, Parameters
from asyncfl.privacy.accountant import Mechanism, approximate_epsilon, epsilon
from asyncfl.privacy.allowance import Cells, isolation_probability, malicious_allowance
from asyncfl.privacy.calibration import Budget, calibrate
from asyncfl.privacy.verdict import DIGITS_DIMENSION, Run

_CELL_TO_GROUP: Final = 1.5
"""Groups are two thirds of their cell, as by default."""
_GROUPS: Final = (3, 8, 16, 32, MAX_GROUP, 128, 256, 512, 1024)
_FACTORS: Final = (0.25, 0.5, 2.0, 4.0)
_BUDGET_FACTORS: Final = (2.0, 4.0, 8.0)
_SERVER_RATES: Final = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants. Raises `ParameterError` for what cannot be.

    `budget` for one client over `epochs` uploads; `clients` in the roster, all taken to be present; `dimension`
    floating parameters; `clip` is C, in model units. Verdicts take `usual_clip` (by default `clip`) for a third
    of an unclipped update's norm, as in the measurements: a smaller clip then acts like a smaller server rate.
    """

    budget: Budget
    epochs: int
    clients: int
    min_group: int
    dimension: int = DIGITS_DIMENSION
    clip: float = 1.0
    server_learning_rate: float = 1.0
    malicious_fraction: float = 0.0
    replicas: int = 4
    usual_clip: float | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.clients, self.min_group, self.dimension) < 1:
            raise ParameterError("epochs, clients, min_group and dim must each be at least 1")
        if self.min_group > self.clients:
            raise ParameterError(
                f"min_group {self.min_group} exceeds the {self.clients} clients: no group could ever be filled"
            )
        for name, value in (("clip", self.clip), ("server_lr", self.server_learning_rate)):
            if not (isfinite(value) and value > 0):
                raise ParameterError(f"{name} {value}: a number above 0 is needed")

    @property
    def cells(self) -> Cells:
        """Cells half as large again as `min_group`, if there are enough clients."""
        size = min(self.clients, max(self.min_group, int(_CELL_TO_GROUP * self.min_group)))
        return Cells(self.clients, size, self.replicas)

    @property
    def run(self) -> Run:
        return Run(self.epochs, self.dimension)

    @property
    def relative_clip(self) -> float:
        """The clip over the usual one."""
        return self.clip / (self.usual_clip or self.clip)

    @property
    def allowance(self) -> int:
        return malicious_allowance(self.cells, self.malicious_fraction, self.min_group)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The noise that a wish needs, and what it does to training.

    `noise_per_parameter` is the standard deviation of the noise in a row's mean (all clients present),
    `noise_norm` its expected L2 norm, both in model units before the server's learning rate; `error` is
    `noise_norm` over the clip. `best_verdict` is the verdict at `suitable_server_lr`. `obstacle` says why such a
    deployment would be refused today, or is None.
    """

    noise_multiplier: float
    epsilon: float
    noise_per_parameter: float
    noise_norm: float
    error: float
    verdict: str
    suitable_server_lr: float
    best_verdict: str
    obstacle: str | None


def outcome(wish: Wish) -> Outcome:
    """Calibrate the noise for a wish and judge it. Raises `ParameterError` when it cannot be had at all."""
    honest = wish.min_group - wish.allowance

    def mechanism(multiplier: float) -> Mechanism:
        return Mechanism(multiplier, honest, _scale(wish, multiplier), wish.dimension)

    multiplier = calibrate(wish.budget, wish.epochs, mechanism)
    each = multiplier * wish.clip / sqrt(honest * wish.clients)
    norm = each * sqrt(wish.dimension)
    suitable = wish.run.suitable_server_rate(norm / wish.clip)
    used = wish.server_learning_rate * wish.relative_clip
    return Outcome(
        noise_multiplier=multiplier,
        epsilon=epsilon(mechanism(multiplier), wish.epochs, wish.budget.delta),
        noise_per_parameter=each,
        noise_norm=norm,
        error=norm / wish.clip,
        verdict=wish.run.judge(norm / wish.clip, used).value,
        suitable_server_lr=suitable / wish.relative_clip,
        best_verdict=wish.run.judge(norm / wish.clip, suitable).value,
        obstacle=_obstacle(wish, multiplier),
    )


def plan(wish: Wish) -> dict[str, Any]:
    """Everything that `asyncfl plan --json` prints, plain values. Raises `ParameterError`."""
    found, cells = outcome(wish), wish.cells
    return {
        **asdict(found),
        "delta": wish.budget.delta,
        "epsilon_pld_approximation": approximate_epsilon(
            found.noise_multiplier, wish.epochs, wish.budget.delta
        ),
        "signal_to_noise": 1 / found.error,
        "largest_usable_error": wish.run.largest_usable_ratio,
        "epochs": wish.epochs,
        "clients": wish.clients,
        "cell_size": cells.cell_size,
        "min_group": wish.min_group,
        "dim": wish.dimension,
        "clip": wish.clip,
        "server_lr": wish.server_learning_rate,
        "malicious_fraction": wish.malicious_fraction,
        "malicious_allowance": wish.allowance,
        "isolation_probability": isolation_probability(
            cells, wish.malicious_fraction, wish.min_group, wish.epochs
        ),
        **_advice(wish, found.noise_multiplier),
        "sweep": [
            {
                "change": change, "value": value, **asdict(each),
                "model_noise_norm": each.noise_norm * other.server_learning_rate,
            }
            for change, value, other in variations(wish)
            for each in [outcome(other)]
        ],
    }  # fmt: skip


def variations(wish: Wish) -> Iterator[tuple[str, float, Wish]]:
    """The wish with one thing changed: name of the option, its value, and the changed wish."""
    for group in _GROUPS:
        if group != wish.min_group and group <= wish.clients:
            other = replace(wish, min_group=group)
            if _leaves_honest_members(other):
                yield "min_group", group, other
    for factor in _BUDGET_FACTORS:
        budget = replace(wish.budget, epsilon=factor * wish.budget.epsilon)
        yield "epsilon", budget.epsilon, replace(wish, budget=budget)
    for factor in _FACTORS:
        epochs = max(1, round(factor * wish.epochs))
        yield "epochs", epochs, replace(wish, epochs=epochs)
    for factor in _FACTORS:
        yield "clip", factor * wish.clip, replace(wish, clip=factor * wish.clip, usual_clip=wish.clip)
    for rate in _SERVER_RATES:
        if rate != wish.server_learning_rate:
            yield "server_lr", rate, replace(wish, server_learning_rate=rate)


def smallest_usable_group(wish: Wish, multiplier: float) -> int | None:
    """The smallest min_group that is usable at a suitable server learning rate; None: not even all clients are."""
    limit = wish.run.largest_usable_ratio
    honest = max(1, ceil(multiplier**2 * wish.dimension / (wish.clients * limit**2)))
    group = honest
    while group <= wish.clients:
        other = replace(wish, min_group=group)
        if _leaves_honest_members(other) and group - other.allowance >= honest:
            return group
        group += 1
    return None


def clients_needed(wish: Wish, multiplier: float, group: int) -> int | None:
    """From how many clients on groups of `group` are usable at a suitable server learning rate.

    None: from none on, because colluders of such a roster may fill a group.
    """
    limit = wish.run.largest_usable_ratio
    needed = group
    while True:
        other = replace(wish, clients=needed, min_group=group)
        if not _leaves_honest_members(other):
            return None
        enough = ceil(multiplier**2 * wish.dimension / ((group - other.allowance) * limit**2))
        if enough <= needed:
            return needed
        needed = enough


def _advice(wish: Wish, multiplier: float) -> dict[str, Any]:
    """Which group would be usable, whether such sums can be opened at all, and if not, what can be had instead."""
    group = smallest_usable_group(wish, multiplier)
    obstacle, in_reach = None, None
    if group is not None:
        # Larger groups have less noise: where the smallest usable one needs a flag, the next may not.
        for size in (group, max(group, SMALLEST_PRIVATE)):
            refused = _obstacle(replace(wish, min_group=min(size, wish.clients)), multiplier)
            if refused is None:
                in_reach = min(size, wish.clients)
                break
            obstacle = obstacle or refused
    return {
        "smallest_usable_group": group,
        "usable_group_obstacle": obstacle,
        "usable_group_in_reach": in_reach,
        "largest_group": MAX_GROUP,
        "clients_needed": clients_needed(wish, multiplier, MAX_GROUP) if in_reach is None else None,
    }


def _leaves_honest_members(wish: Wish) -> bool:
    try:
        return wish.allowance < wish.min_group
    except ParameterError:
        return False


def _options(wish: Wish, multiplier: float) -> dict[str, Any]:
    return {
        "replicas": wish.replicas,
        "byzantine": (wish.replicas - 1) // 3,
        "cell_size": wish.cells.cell_size,
        "min_group": wish.min_group,
        "max_group": max(wish.min_group, min(MAX_GROUP, 2 * wish.cells.cell_size)),
        "noise_multiplier": multiplier,
        "malicious_allowance": wish.allowance,
        "clip": float(wish.clip),
        "server_learning_rate": float(wish.server_learning_rate),
    }


def _scale(wish: Wish, multiplier: float) -> int:
    """L, also for groups that would be refused: without the checks."""
    return Parameters.model_construct(**_options(wish, multiplier)).scale


def _obstacle(wish: Wish, multiplier: float) -> str | None:
    try:
        Parameters.model_validate(_options(wish, multiplier))
    except ParameterError as error:
        return str(error)
    return None
