"""How many members of a group to expect to add no noise, when a fraction of all clients colludes.

The shuffle puts clients into cells at random, so the colluders of a cell are hypergeometric: drawn without
replacement from the roster. Source: `docs/protocol.md`, section 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from asyncfl.errors import ParameterError
from asyncfl.parameters import MAX_LATE_EPOCHS

FAILURE: Final = 1e-6
"""Probability, for each upload, that some cell it could be opened with has more colluders than allowed for."""
EPOCHS_TO_RIDE: Final = MAX_LATE_EPOCHS + 1
"""An upload's own epoch, and those in which it may ride on top of a later group."""


@dataclass(frozen=True, slots=True)
class Cells:
    """How `clients` of a roster are cut into cells that `replicas` coordinate in turn.

    Raises `ParameterError` unless 1 <= cell_size <= clients and replicas >= 1.
    """

    clients: int
    cell_size: int
    replicas: int

    def __post_init__(self) -> None:
        if not 1 <= self.cell_size <= self.clients:
            raise ParameterError(f"cell_size {self.cell_size} must lie between 1 and {self.clients} clients")
        if self.replicas < 1:
            raise ParameterError(f"{self.replicas} replicas: at least one is needed")

    @property
    def count(self) -> int:
        """Cells of one epoch."""
        return self.clients // self.cell_size

    @property
    def largest(self) -> int:
        """Members of the largest cell; sizes differ by at most one."""
        return ceil(self.clients / self.count)

    @property
    def of_one_coordinator(self) -> int:
        """Cells of one epoch that the busiest replica coordinates."""
        return ceil(self.count / self.replicas)


def colluders(clients: int, malicious_fraction: float) -> int:
    """How many clients collude, rounded up. Raises `ParameterError` unless 0 <= malicious_fraction < 1."""
    if not 0 <= malicious_fraction < 1:
        raise ParameterError(f"malicious_fraction {malicious_fraction} must be at least 0 and below 1")
    return ceil(malicious_fraction * clients - 1e-9)


def more_than(cells: Cells, malicious_fraction: float, members: int) -> float:
    """Probability that one (largest) cell holds more than `members` colluders."""
    bad = colluders(cells.clients, malicious_fraction)
    if bad == 0:
        return float(members < 0)
    # Takes a second to import: not in processes of deployments that assume no colluders.
    from scipy.stats import hypergeom

    return float(hypergeom.sf(members, cells.clients, bad, cells.largest))


def malicious_allowance(cells: Cells, malicious_fraction: float, min_group: int) -> int:
    """The largest number of colluders in one cell at probability 1e-6 / (9 * cells of one coordinator + 1).

    That is the smallest number a that more colluders than a exceed with at most this probability: an upload
    is opened with a minimum of its own cell, or on top of one from any cell that its coordinator has in nine
    epochs. Raises `ParameterError` when it leaves no honest member in a group of `min_group`.
    """
    limit = FAILURE / (EPOCHS_TO_RIDE * cells.of_one_coordinator + 1)
    allowance = 0
    while more_than(cells, malicious_fraction, allowance) > limit:
        allowance += 1
    if min_group - allowance < 1:
        raise ParameterError(
            f"if {malicious_fraction:.0%} of {cells.clients} clients collude, up to {allowance} of a cell of "
            f"{cells.largest} must be expected, which leaves no honest member in a group of {min_group}; "
            f"use min_group of at least {allowance + 1}, larger cells, or assume fewer colluders"
        )
    return allowance


def isolation_probability(
    cells: Cells, malicious_fraction: float, min_group: int, epochs: int, coordinators: int = 1
) -> float:
    """Upper bound on the probability that colluders are ever able to open somebody's upload alone.

    The strongest case: `coordinators` colluding replicas choose among all their cells of a whole run of
    `epochs` epochs, and by delaying READYs decide which victim meets which cell. All they need is one cell
    with enough colluders: `min_group` - 1 beside the victim, or `min_group` to let it ride on. The bound is
    the sum over all these cells of the probability of `min_group` - 1.
    """
    if epochs < 0 or coordinators < 1:
        raise ParameterError(f"{epochs} epochs and {coordinators} coordinators: not negative, and at least 1")
    each = more_than(cells, malicious_fraction, min_group - 2)
    return min(1.0, epochs * min(cells.count, coordinators * cells.of_one_coordinator) * each)
