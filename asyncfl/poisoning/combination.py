"""Attacks made of others: one after the other in one attacker, or different ones in different attackers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from asyncfl.poisoning.interface import Attack, Data, Forged, Sight, Trigger


def _trigger(parts: tuple[Attack, ...]) -> Trigger | None:
    return next((part.trigger for part in parts if part.trigger is not None), None)


@dataclass(frozen=True, slots=True)
class Together(Attack):
    """Every attacker does all `parts`, each to what the one before has left."""

    parts: tuple[Attack, ...]

    @property
    def poisons(self) -> bool:
        return any(part.poisons for part in self.parts)

    @property
    def observes(self) -> bool:
        return any(part.observes for part in self.parts)

    @property
    def trigger(self) -> Trigger | None:
        return _trigger(self.parts)

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        for part in self.parts:
            data = part.poison(data, attacker, seed)
        return data

    def forge(self, sight: Sight) -> Forged:
        carried, own = None, sight.own
        for part in self.parts:
            forged = part.forge(replace(sight, own=own))
            own = forged.updates
            carried = carried if forged.carried is None else forged.carried
        return Forged(own, carried)


@dataclass(frozen=True, slots=True)
class Divided(Attack):
    """Attacker number j does `parts[j mod k]`; those with the same part collude in it."""

    parts: tuple[Attack, ...]

    @property
    def poisons(self) -> bool:
        return any(part.poisons for part in self.parts)

    @property
    def observes(self) -> bool:
        return any(part.observes for part in self.parts)

    @property
    def trigger(self) -> Trigger | None:
        return _trigger(self.parts)

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        return self.parts[attacker % len(self.parts)].poison(data, attacker, seed)

    def forge(self, sight: Sight) -> Forged:
        updates, carried = sight.own.clone(), None
        for number, part in enumerate(self.parts):
            rows = [at for at, who in enumerate(sight.attackers) if who % len(self.parts) == number]
            if not rows:
                continue
            theirs = replace(
                sight, own=sight.own[rows], attackers=tuple(sight.attackers[row] for row in rows)
            )
            forged = part.forge(theirs)
            updates[torch.tensor(rows)] = forged.updates
            carried = carried if forged.carried is None else forged.carried
        return Forged(updates, carried)
