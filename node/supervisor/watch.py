"""Reads what the nodes say about themselves: state/<name>/status.json."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node.deployment_files import DeploymentDirectory


class Phase(StrEnum):
    """What a replica is doing, as a person sees it."""

    STARTING = "starting"
    UP = "up"
    CATCHING_UP = "catching up"
    KILLED = "killed"
    MISBEHAVING = "misbehaving"
    """On purpose, in a drill: what it says of itself counts for nothing."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A certified model: ledger version and model digest in hex, and how many entries it folds, excluded ones too."""

    version: str
    entries: int
    model: str
    statement: int = 0
    """Number of the exclusion under which it was computed, or 0."""
    counted: int | None = field(default=None, compare=False)
    """How many of the entries count under it, where the replica tells."""

    @classmethod
    def of(cls, status: dict[str, Any]) -> Certified | None:
        """The one that a replica's status tells of."""
        told = status.get("certified")
        if not told:
            return None
        return cls(
            told["version"], told["entries"], told["model"], told.get("statement", 0), told.get("counted")
        )

    @property
    def progress(self) -> tuple[int, int]:
        """What the newest has most of: a later statement goes before more entries, which may be poisoned."""
        return self.statement, self.entries


@dataclass(frozen=True, slots=True)
class Proof:
    """A piece of evidence: `culprit` (name, or public key in hex) did what `kind` says; its digest in hex."""

    kind: str
    culprit: str
    digest: str


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica's last status. Figures are those of its last life when it does not run."""

    name: str
    phase: Phase
    entries: int = 0
    epoch: int = 0
    version: str = ""
    certified: Certified | None = None
    inclusion: dict[str, int] = field(default_factory=dict)
    """Memberships by client key (hex)."""
    counted: int | None = None
    """How many of them count, where the replica tells."""
    own_accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    """By epoch `correct`, `count` and `noise` on the clients' own test data."""
    finished: str | None = None
    """Why training is over by its ledger and its own file's [stop]."""
    uploads_waiting: int = 0
    groups_open: int = 0
    peers: int = 0
    clients: int = 0
    patience: float = 0.0
    stall: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    evidence: tuple[Proof, ...] = ()
    """That it holds, against whomever."""

    @property
    def running(self) -> bool:
        return self.phase in {Phase.STARTING, Phase.UP, Phase.CATCHING_UP}

    @property
    def answers(self) -> bool:
        """Whether its figures are those of the running process."""
        return self.phase in {Phase.UP, Phase.CATCHING_UP}


@dataclass(frozen=True, slots=True)
class ClientView:
    """A client's last status."""

    name: str
    state: str = "starting"
    epoch: int = 0
    sent: int = 0
    over: bool = False
    """Whether nothing more is to come from it."""
    waiting_for: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    refused: int = 0
    """Updates of its own training that it could not send."""
    refused_epoch: int | None = None
    refused_reason: str | None = None
    """Of the last of them."""

    @property
    def done(self) -> bool:
        """Whether it has sent its last upload; not where that could not be sent."""
        return self.over and not (self.refused and self.refused_epoch == self.epoch - 1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All nodes at one moment, in the order of the deployment file; clients only those that behave."""

    replicas: tuple[ReplicaView, ...]
    clients: tuple[ClientView, ...]

    @property
    def behaving(self) -> tuple[ReplicaView, ...]:
        """The replicas that do not misbehave on purpose: all figures are theirs."""
        return tuple(replica for replica in self.replicas if replica.phase is not Phase.MISBEHAVING)

    @property
    def entries(self) -> int:
        """Of the replica that is furthest."""
        return max((replica.entries for replica in self.behaving), default=0)

    @property
    def epoch(self) -> int:
        """Highest epoch with an entry."""
        return max((replica.epoch for replica in self.behaving), default=0)

    @property
    def certified(self) -> Certified | None:
        """The newest certified model: under the latest exclusion, with the most entries."""
        models = [replica.certified for replica in self.behaving if replica.certified is not None]
        return max(models, key=lambda model: model.progress, default=None)

    @property
    def sent(self) -> int:
        return sum(client.sent for client in self.clients)

    @property
    def inclusion(self) -> dict[str, int]:
        """Memberships by client key (hex), as the replica that is furthest counts them."""
        return self._furthest.inclusion if self._furthest is not None else {}

    @property
    def own_accuracy(self) -> dict[str, dict[str, float]]:
        """By epoch what clients measured on their own test data, as the replica that is furthest tells it."""
        return self._furthest.own_accuracy if self._furthest is not None else {}

    @property
    def finished(self) -> str | None:
        """Why training is over, as the replica that is furthest says; None while it is not."""
        return self._furthest.finished if self._furthest is not None else None

    @property
    def _furthest(self) -> ReplicaView | None:
        return max(self.behaving, key=lambda replica: replica.entries, default=None)

    @property
    def included(self) -> int:
        return sum(self.inclusion.values())

    @property
    def counted(self) -> int:
        """Of these how many the model has: those that no exclusion leaves out."""
        counted = None if self._furthest is None else self._furthest.counted
        return self.included if counted is None else counted

    @property
    def done(self) -> int:
        """Clients that have sent their last upload."""
        return sum(client.done for client in self.clients)

    @property
    def over(self) -> int:
        """Clients from which nothing more is to come."""
        return sum(client.over for client in self.clients)

    @property
    def refusals(self) -> list[str]:
        """Why clients could not send updates of their own training, by the last of each; a sentence a reason."""
        reasons = Counter(each.refused_reason for each in self.clients if each.refused)
        return [f"{count} of {len(self.clients)} clients: {why}" for why, count in sorted(reasons.items())]

    @property
    def client_epochs(self) -> list[tuple[int, int]]:
        """How many clients that still take part are at which epoch, in order."""
        return sorted(Counter(each.epoch for each in self.clients if each.epoch and not each.over).items())

    @property
    def evidence(self) -> tuple[Proof, ...]:
        """What the replicas that behave hold, each piece once."""
        return tuple(dict.fromkeys(proof for replica in self.behaving for proof in replica.evidence))

    @property
    def stalls(self) -> list[str]:
        """What the running replicas say about why nothing can move, each sentence once."""
        said = (replica.stall for replica in self.replicas if replica.answers)
        return list(dict.fromkeys(sentence for sentence in said if sentence))


def read_status(directory: DeploymentDirectory, name: str) -> dict[str, Any]:
    """The last status of a node; empty when there is none (yet), it cannot be read, or is of another deployment."""
    try:
        status = json.loads(directory.status_file(name).read_bytes())
    except (OSError, ValueError):
        return {}
    mine = directory.deployment.digest.hex()
    return status if isinstance(status, dict) and status.get("deployment", mine) == mine else {}


def why_no_status(directory: DeploymentDirectory, name: str) -> str:
    """In a few words why `read_status` is empty."""
    try:
        status = json.loads(directory.status_file(name).read_bytes())
    except FileNotFoundError:
        return "never run here"
    except PermissionError:
        return "not readable"
    except (OSError, ValueError):
        status = None
    if isinstance(status, dict) and isinstance(status.get("deployment"), str):
        return "of another deployment"
    return "unreadable status"


def replica_view(name: str, status: dict[str, Any], *, pid: int | None, down: Phase | None) -> ReplicaView:
    """A replica from its status. `pid`: of the running process, whose status alone is current.

    `down`: why it does not run, if so.
    """
    if down is not None:
        phase = down
    elif status.get("pid") != pid or status.get("state") == "starting":
        phase = Phase.STARTING
    elif status.get("state") == "up":
        phase = Phase.UP
    else:
        phase = Phase.CATCHING_UP
    uploads = status.get("uploads") or {}
    return ReplicaView(
        name=name,
        phase=phase,
        entries=status.get("entries", 0),
        epoch=status.get("epoch", 0),
        version=status.get("version", ""),
        certified=Certified.of(status),
        inclusion=status.get("inclusion") or {},
        counted=(status.get("counted") or {}).get("uploads"),
        own_accuracy=status.get("accuracy") or {},
        finished=status.get("finished"),
        uploads_waiting=uploads.get("waiting", 0),
        groups_open=status.get("groups_open", 0),
        peers=status.get("connected", 0),
        clients=status.get("connected_clients", 0),
        patience=status.get("patience_s", 0.0),
        stall=status.get("stall"),
        bytes_in=status.get("bytes_in", 0),
        bytes_out=status.get("bytes_out", 0),
        evidence=tuple(Proof(**proof) for proof in status.get("evidence") or ()),
    )


def client_view(name: str, status: dict[str, Any], *, pid: int | None) -> ClientView:
    """A client from its status; what another process than `pid` wrote says nothing about now."""
    current = status.get("pid") == pid
    refused = (status.get("refused") if current else None) or {}
    return ClientView(
        name=name,
        state=status.get("state", "starting") if current else "starting",
        epoch=status.get("epoch", 0),
        sent=status.get("sent", 0),
        over=current and bool(status.get("done", False)),
        waiting_for=status.get("waiting_for") if current else "its process to start",
        bytes_in=status.get("bytes_in", 0),
        bytes_out=status.get("bytes_out", 0),
        refused=refused.get("count", 0),
        refused_epoch=refused.get("epoch"),
        refused_reason=refused.get("reason"),
    )
