"""What a deployment assumes of colluding clients, and what they could do if no more than these collude.

Said at every start: a guarantee that rests on an assumption is worth what the reader knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from asyncfl.parameters import Parameters
from asyncfl.privacy.allowance import Cells, colluders, isolation_probability

USUAL_EPOCHS: Final = 1000
"""Length of a run of which neither a budget nor a last epoch is known."""


@dataclass(frozen=True, slots=True)
class Collusion:
    """`isolation_probability`: upper bound, over all `epochs`, on the probability that a colluding coordinator,
    which chooses among all its cells and delays READYs, ever meets a cell in which colluders surround a victim.
    """

    clients: int
    min_group: int
    malicious_fraction: float
    malicious_allowance: int
    epochs: int
    isolation_probability: float

    @classmethod
    def of(cls, parameters: Parameters, clients: int, epochs: int | None) -> Self:
        """For a roster of `clients`. `epochs` None: `USUAL_EPOCHS`. Raises `ParameterError`."""
        length = USUAL_EPOCHS if epochs is None else epochs
        cells = Cells(clients, min(parameters.cell_size, clients), parameters.replicas)
        fraction, group = parameters.malicious_fraction, parameters.min_group
        alone = isolation_probability(cells, fraction, group, length)
        return cls(clients, group, fraction, parameters.malicious_allowance, length, alone)

    def sentence(self) -> str:
        """For people."""
        counted = f"malicious_allowance {self.malicious_allowance} of {self.min_group}"
        if self.malicious_fraction == 0:
            return (
                f"no client is assumed to collude with a replica ({counted}); if {max(1, self.min_group - 1)} in a "
                "cell did, their coordinator could open somebody alone (asyncfl init --malicious-fraction)"
            )
        bad = colluders(self.clients, self.malicious_fraction)
        return (
            f"{bad} of {self.clients} clients are assumed to collude with a replica (a fraction of "
            f"{self.malicious_fraction:g}; {counted}); a coordinator that chooses among its cells and delays READYs "
            f"gets a victim alone with probability {self.isolation_probability:.1g} at most in {self.epochs} epochs"
        )
