"""An extra for drills: `asyncfl node --misbehave`. Where it is not installed the option does not exist."""

from asyncfl_misbehaviour.command import node

__all__ = ["node"]
