"""The operator's own copy of its exclusions, DIR/exclusions.json: on disk before one leaves this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def read_exclusions(root: Path, deployment: Deployment) -> Exclusions:
    """What the operator has signed so far; nothing where there is no file. Raises `ConfigurationError`."""
    path = root / EXCLUSIONS_FILE
    held = Exclusions(deployment.federation())
    try:
        text = read_text(path, limit=MAX_BYTES)
    except FileNotFoundError:
        return held
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}; restore the file") from None
    try:
        for fields in json.loads(text)["statements"]:
            held.add(_statement(fields))
    except (InvalidItem, MalformedMessage, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: not the operator's exclusions of this deployment: {error}; restore the file"
        ) from None
    return held


def write_exclusions(root: Path, statements: Sequence[ExclusionStatement]) -> None:
    """Replace the file, whole or not at all. Raises `StorageError`."""
    path = root / EXCLUSIONS_FILE
    text = json.dumps({"statements": [_fields(statement) for statement in statements]}, indent=1) + "\n"
    try:
        write_whole(path, text.encode(), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}; nothing was signed: free space on that disk and run the "
            "command again"
        ) from None


def _fields(statement: ExclusionStatement) -> dict[str, Any]:
    return {
        "number": statement.number,
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
