"""The operator's own copy of its exclusions, DIR/exclusions.json: on disk before one leaves this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError, InvalidItem, MalformedMessage, StorageError
from asyncfl.exclusions import Exclusions
from asyncfl.messages import ExclusionStatement
from node.text_files import read_text
from node.whole_files import write_whole

EXCLUSIONS_FILE: Final = "exclusions.json"
MAX_BYTES: Final = 64 << 20


@dataclass
class Signed:
    """What the operator has signed, and when by this machine's clock: seconds since 1970, by digest.

    No time is known of a statement that was signed elsewhere, and came from a replica.
    """

    exclusions: Exclusions
    times: dict[bytes, float] = field(default_factory=dict)


def read_exclusions(root: Path, deployment: Deployment) -> Signed:
    """What the operator has signed so far; nothing where there is no file. Raises `ConfigurationError`."""
    path = root / EXCLUSIONS_FILE
    signed = Signed(Exclusions(deployment.federation()))
    try:
        text = read_text(path, limit=MAX_BYTES)
    except FileNotFoundError:
        return signed
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}; restore the file") from None
    try:
        for fields in json.loads(text)["statements"]:
            statement = _statement(fields)
            signed.exclusions.add(statement)
            if fields.get("at") is not None:
                signed.times[statement.body()] = float(fields["at"])
    except (InvalidItem, MalformedMessage, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: not the operator's exclusions of this deployment: {error}; restore the file, or put it aside: "
            "the replicas have them too"
        ) from None
    return signed


def write_exclusions(root: Path, signed: Signed) -> None:
    """Replace the file, whole or not at all. Raises `StorageError`."""
    path, held = root / EXCLUSIONS_FILE, signed.exclusions
    statements = sorted((*held.held, *held.doubles.values()), key=lambda statement: statement.number)
    fields = [_fields(statement, signed.times) for statement in statements]
    try:
        write_whole(path, (json.dumps({"statements": fields}, indent=1) + "\n").encode(), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}; nothing was sent: free space on that disk and run the "
            "command again"
        ) from None


def _fields(statement: ExclusionStatement, times: Mapping[bytes, float]) -> dict[str, Any]:
    return {
        "number": statement.number,
        "at": times.get(statement.body()),
        "entries": [name.hex() for name in statement.entries],
        "clients": [key.hex() for key in statement.clients],
        "spans": [[span.first, span.last] for span in statement.spans],
        "reason": statement.reason,
        "signature": statement.signature.hex(),
    }


def _statement(fields: dict[str, Any]) -> ExclusionStatement:
    return ExclusionStatement.from_fields(
        (
            fields["number"],
            tuple(bytes.fromhex(name) for name in fields["entries"]),
            tuple(bytes.fromhex(key) for key in fields["clients"]),
            tuple((first, last) for first, last in fields["spans"]),
            fields["reason"],
            bytes.fromhex(fields["signature"]),
        )
    )
