"""What a node has heard others promise: one line for every signed word that must be on its sender's disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncfl.client.context import EPOCH, PENDING
from asyncfl.effects import Table
from asyncfl.messages import (
    Attest,
    Front,
    Leave,
    LockContent,
    Locked,
    Manifest,
    Message,
    ModelVote,
    ShareOk,
    ShareSum,
    Stored,
    Upload,
)
from asyncfl.replica.item_record import ItemRecord
from asyncfl.replica.uploads import seen_key
from asyncfl.wire import unpack

Tables = dict[Table, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Promise:
    """`what` was said by `signer` about `about` (an id, a version, a client and epoch), namely `content`."""

    signer: str
    what: str
    about: str
    content: str


def promise_of(peer: bytes, message: Message) -> Promise | None:
    """What the sender must remember, if anything."""
    signer = peer.hex()
    match message:
        case ShareOk(client=client, epoch=epoch, manifest=manifest):
            return Promise(signer, "share-ok", seen_key(client, epoch).hex(), manifest.hex())
        case Stored(manifest=manifest):
            return Promise(signer, "stored", manifest.hex(), "")
        case Locked(id=group_id, group=group):
            return Promise(signer, "locked", group_id.encode().hex(), group.hex())
        case ShareSum(id=group_id, group=group):
            return Promise(signer, "share-sum", group_id.encode().hex(), group.hex())
        case Attest(item=item):
            return Promise(signer, "attest", item.hex(), "")
        case ModelVote(version=version, model=model):
            return Promise(signer, "model", version.hex(), model.hex())
        case Front(statement=number) if number:
            return Promise(signer, "exclusion", number.to_bytes(4, "big").hex(), "")
        case Upload(manifest=manifest):
            return Promise(signer, "upload", str(manifest.core.epoch), manifest.digest().hex())
        case Leave(uploads=uploads):
            return Promise(signer, "leave", "", str(uploads))
    return None


def listen(path: Path, hear: Callable[..., None]) -> Callable[..., None]:
    """`Runtime.message`, with every promise written to `path` before the machine hears of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    known: set[Promise] = set()

    def message(runtime: Any, peer: bytes, received: Message) -> None:
        promise = promise_of(peer, received)
        if promise is not None and promise not in known:
            known.add(promise)
            fields = [promise.signer, promise.what, promise.about, promise.content]
            os.write(descriptor, f"{json.dumps(fields)}\n".encode())
        hear(runtime, peer, received)

    return message


def read(paths: Iterable[Path]) -> set[Promise]:
    """Everything heard so far; a last line that is being written is left for the next time."""
    promises: set[Promise] = set()
    for path in paths:
        lines = path.read_text().split("\n")[:-1]
        promises.update(Promise(*json.loads(line)) for line in lines)
    return promises


def broken(promises: Iterable[Promise], tables: Tables) -> list[Promise]:
    """Of the promises of one node those that its disk does not know."""
    return [promise for promise in promises if not _is_kept(promise, tables)]


def contradictions(promises: Iterable[Promise]) -> list[Promise]:
    """Promises that say something else than an earlier one of the same node about the same thing."""
    first: dict[tuple[str, str, str], str] = {}
    found = []
    for promise in sorted(promises, key=lambda promise: (promise.signer, promise.about, promise.what)):
        key = (promise.signer, promise.what, promise.about)
        if promise.what != "leave" and first.setdefault(key, promise.content) != promise.content:
            found.append(promise)
    return found


def _is_kept(promise: Promise, tables: Tables) -> bool:
    about = bytes.fromhex(promise.about) if promise.what != "upload" else b""
    match promise.what:
        case "share-ok":
            return tables[Table.SEEN].get(about, b"").hex() == promise.content
        case "stored":
            # What found no group goes in the end; that it was seen stays.
            return (
                about in tables[Table.MANIFESTS]
                or about in tables[Table.SEEN].values()
                or about in _included(tables)
            )
        case "locked" | "share-sum":
            rows = [
                LockContent.decode(row).digest().hex()
                for key, row in tables[Table.LOCKS].items()
                if key.startswith(about)
            ]
            return promise.content in rows
        case "attest":
            return about in tables[Table.ITEMS]
        case "model":
            return tables[Table.MODELS].get(about, b"").hex() == promise.content
        case "upload":
            key = int(promise.about).to_bytes(8, "big")
            pending = tables[Table.META].get(PENDING)
            written = [tables[Table.EPOCHS].get(key, b"").hex()]
            if pending and Manifest.decode(pending).core.epoch == int(promise.about):
                written = [Manifest.decode(pending).digest().hex()]
            # Refused by t+1 replicas: neither under way nor stored, and never made again.
            past = written == [""] and unpack(tables[Table.META][EPOCH]) > int(promise.about)
            return key in tables[Table.PRIVACY] and (past or promise.content in written)
        case "exclusion":
            return any(key.startswith(about) for key in tables[Table.EXCLUSIONS])
        case "leave":
            return len(tables[Table.PRIVACY]) == int(promise.content)
    raise AssertionError(promise.what)


def _included(tables: Tables) -> set[bytes]:
    items = (ItemRecord.decode(value).item for value in tables[Table.ITEMS].values())
    return {member.manifest for item in items for member in item.members}


def opened(tables: Tables) -> dict[tuple[bytes, int], bytes]:
    """The manifest that a replica's ledger holds for each (client, epoch). Raises where there are two."""
    found: dict[tuple[bytes, int], bytes] = {}
    for value in tables[Table.ITEMS].values():
        for member in ItemRecord.decode(value).item.members:
            assert (member.client, member.epoch) not in found, "an upload was opened twice"
            found[member.client, member.epoch] = member.manifest
    return found


def locked_twice(promises: Iterable[Promise], replicas: Iterable[Tables]) -> list[str]:
    """Uploads that one replica has locked, by its signature or its answer, in two groups."""
    contents = {
        content.digest().hex(): content
        for tables in replicas
        for content in map(LockContent.decode, tables[Table.LOCKS].values())
    }
    for what in ("locked", "share-sum"):
        seen: dict[tuple[str, bytes, int], str] = {}
        for promise in promises:
            if promise.what != what:
                continue
            for member in contents[promise.content].members:
                key = (promise.signer, member.client, member.epoch)
                if seen.setdefault(key, promise.content) != promise.content:
                    return [
                        f"{what}: epoch {member.epoch} of {member.client.hex()[:8]} by {promise.signer[:8]}"
                    ]
    return []


def pending_is_paid(tables: Tables) -> bool:
    """Whether the upload under way, if there is one, has its privacy event."""
    pending = tables[Table.META].get(PENDING)
    return not pending or Manifest.decode(pending).core.epoch.to_bytes(8, "big") in tables[Table.PRIVACY]


def votes_of(tables: Tables) -> dict[bytes, set[int]]:
    """Who attests which item, by one replica's ledger."""
    return {name: {vote[0] for vote in unpack(value)[2]} for name, value in tables[Table.ITEMS].items()}
