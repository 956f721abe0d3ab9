"""An aggregator replica as a pure state machine."""

from asyncfl.replica.machine import Replica

__all__ = ["Replica"]
