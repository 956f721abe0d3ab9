"""The simulator's observer, for tests: it raises at the first broken rule, and keeps every message."""

from typing import NoReturn, TypeVar

from asyncfl.effects import Effect, Send
from asyncfl.messages import Manifest, Message, Reveal
from asyncfl.rosters import ROSTER_GRACE_EPOCHS
from asyncfl.simulation import Node, Simulation
from asyncfl.simulation import observer as simulated


class Observer(simulated.Observer):
    """Attach before `start`. The replicas in `honest` (indices) and all clients but `lying` are held to the rules."""

    def __init__(
        self, simulation: Simulation, honest: set[int] | None = None, lying: tuple[int, ...] = ()
    ) -> None:
        keys = simulation.federation.replica_keys
        malicious = {keys[j] for j in range(len(keys)) if honest is not None and j not in honest}
        super().__init__(simulation, malicious | {simulation.client_key(i) for i in lying})
        self.messages: list[tuple[bytes, bytes, Message]] = []

    def _on_effect(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.messages.append((node.key, effect.peer, effect.message))
        super()._on_effect(node, effect)

    def _fail(self, rule: str, node: Node, text: str) -> NoReturn:
        super()._fail(rule, node, text)
        raise AssertionError(str(self.violations[-1]))

    def check_end(self) -> None:
        """What can only be said of a whole run; and nobody went on with a roster that two later ones had replaced."""
        self.check_knowledge()
        self.check_models()
        for group in self.answers:
            for member in self.contents[group].members:
                self._check_roster(self.manifests[member.manifest])

    def _check_roster(self, manifest: Manifest) -> None:
        core = manifest.core
        newer = self.simulation.rosters[core.roster + 2 :]
        assert not any(r.start_epoch + ROSTER_GRACE_EPOCHS <= core.epoch for r in newer), (
            "an opened upload is of a roster long replaced"
        )


Kind = TypeVar("Kind", bound=Message)


def sent(observer: Observer, kind: type[Kind], source: bytes | None = None) -> list[Kind]:
    """Messages of one type, in order."""
    return [m for key, _, m in observer.messages if isinstance(m, kind) and source in (None, key)]


def reveals(observer: Observer) -> list[Reveal]:
    return sent(observer, Reveal)
