"""The evidence in the states of nodes, read without touching them, also while they run, and verified anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from asyncfl.effects import Table
from asyncfl.errors import InvalidEvidence, RemoteProtocolError, StorageError, UnjudgedEvidence
from asyncfl.evidence import decode_evidence, describe, evidence_digest, find_culprit, verify
from asyncfl.federation import Federation
from asyncfl.rosters import read_rosters
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory
from node.privacy_events import read_table
from node.state_file import require_no_orphans


@dataclass
class Piece:
    """One piece of evidence, by whoever holds it. `objection`: why it proves nothing; None where it does."""

    digest: str
    kind: str
    culprit: str
    """Name, or key (hex) where the deployment file has none; empty where the bytes cannot be read."""
    what: str
    size: int
    objection: str | None
    judged: bool = True
    """False where the deployment file here is too old to tell."""
    held_by: list[str] = field(default_factory=list)


def find_nodes(directory: Path) -> tuple[DeploymentDirectory, list[str]]:
    """The deployment, and the nodes meant that keep a state here: all of it, or the one whose state DIR is.

    Raises `ConfigurationError` where `directory` is neither.
    """
    root = directory.resolve()
    names: list[str] = []
    if not (root / DEPLOYMENT_FILE).exists() and (root.parent.parent / DEPLOYMENT_FILE).exists():
        files = DeploymentDirectory.load(root.parent.parent)
        names = [name for name in files.deployment.names.values() if files.state(name).resolve() == root]
    if not names:
        files = DeploymentDirectory.load(directory)
        names = list(files.deployment.names.values())
    return files, [name for name in names if keeps_state(files, name)]


def keeps_state(files: DeploymentDirectory, name: str) -> bool:
    """Whether this node has a state here, whatever is left of it; of one that cannot be looked at, reading says why."""
    path = files.state(name) / "state.sqlite"
    try:
        require_no_orphans(path, path.with_name("blobs"))
        path.stat()
    except FileNotFoundError:
        return False
    except (OSError, StorageError):
        return True
    return True


def read_evidence(files: DeploymentDirectory, names: list[str]) -> tuple[list[Piece], dict[str, str]]:
    """Every piece that these nodes hold, once, and what could not be read, by node."""
    pieces: dict[tuple[str, bytes], Piece] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            for key, value, federation in _rows(files, name):
                piece = pieces.get((key.hex(), value))
                if piece is None:
                    piece = pieces[key.hex(), value] = _judge(key, value, federation, files.deployment.names)
                piece.held_by.append(name)
        except StorageError as error:
            problems[name] = str(error)
    return sorted(pieces.values(), key=lambda piece: (piece.culprit, piece.kind, piece.digest)), problems


def _rows(files: DeploymentDirectory, name: str) -> Iterator[tuple[bytes, bytes, Federation]]:
    """A node's rows, and the public facts with all rosters that it holds."""
    deployment, state = files.deployment, files.state(name) / "state.sqlite"
    owner = deployment.digest + next(key for key, known in deployment.names.items() if known == name)
    rows = read_table(state, owner, Table.EVIDENCE)
    if not rows:
        return
    federation = deployment.federation()
    # What does not fit among the rosters is for an audit to say.
    rosters, _ = read_rosters(federation, read_table(state, owner, Table.ROSTERS))
    federation = replace(federation, rosters=tuple(rosters.held))
    for key, value in sorted(rows.items()):
        yield key, value, federation


def _judge(key: bytes, value: bytes, federation: Federation, names: dict[bytes, str]) -> Piece:
    piece = Piece(key.hex(), "", "", "", len(value), None)
    try:
        evidence = decode_evidence(value)
        piece.kind, piece.what = evidence.NAME, describe(evidence)
        culprit = find_culprit(federation, evidence)
        piece.culprit = names.get(culprit, culprit.hex())
        if evidence_digest(value) != key:
            raise InvalidEvidence("the bytes are not those that their digest names")
        verify(federation, evidence)
    except UnjudgedEvidence as error:
        piece.objection, piece.judged = str(error), False
    except RemoteProtocolError as error:
        piece.objection = str(error)
    return piece
