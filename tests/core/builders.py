"""Small federations for tests, from a seed."""

from asyncfl.federation import Federation
from asyncfl.parameters import Parameters
from asyncfl.simulation import Simulation


def make_parameters(clients: int = 16, **options: object) -> Parameters:
    return Parameters.for_clients(clients, **{"preset": "tiny", **options})


def make_simulation(
    clients: int = 16, *, seed: int = 0, last_epoch: int | None = None, **options: object
) -> Simulation:
    """A deployment in memory, with trainers that train nothing."""
    return Simulation(make_parameters(clients, **options), clients, seed=seed, last_epoch=last_epoch)


def make_federation(clients: int = 16, *, seed: int = 0, **options: object) -> Federation:
    return make_simulation(clients, seed=seed, **options).federation
