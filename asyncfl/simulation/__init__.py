"""A seeded, virtual-time network that drives the real state machines.

A seed reproduces a run exactly. Messages of one connection arrive in order, after random delays; a crash
loses everything that was not persisted and everything in flight.
"""

from asyncfl.simulation.deployment import Simulation, StillTrainer
from asyncfl.simulation.network import Network, Node

__all__ = ["Network", "Node", "Simulation", "StillTrainer"]
