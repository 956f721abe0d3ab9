"""Attackers, as drop-in behaviours around the real state machines: for simulations, tests and drills.

Nothing here is imported by a node unless it was told to misbehave.
"""

from asyncfl.adversary import (  # noqa: F401  (they enter their behaviours into the registry)
    clients_conduct,
    clients_dealing,
    replicas_groups,
    replicas_models,
    replicas_openings,
    replicas_service,
)
from asyncfl.adversary.behaviour import ATTACKERS, Attacker, Behaviour, Coven, Insider, Malicious

__all__ = ["ATTACKERS", "Attacker", "Behaviour", "Coven", "Insider", "Malicious"]
