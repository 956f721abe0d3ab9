"""A training client as a pure state machine."""

from asyncfl.client.machine import Client

__all__ = ["Client"]
