"""The deployment file: what everybody of one deployment must agree on, and where the replicas are.

`Deployment.parse` reads TOML text, checks all of it and every operator signature, and refuses with a
`ConfigurationError` that names the file, the line or key, the cause and what to do; `Deployment.render`
writes it. Reading and writing files is the shell's business.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
)

from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError, InvalidItem, ParameterError
from asyncfl.federation import Federation, Roster
from asyncfl.identity import Identity, exchange_key, verify
from asyncfl.messages import Settings
from asyncfl.parameters import Parameters
from asyncfl.toml_errors import explain
from asyncfl.wire import pack

FORMAT: Final = 1
"""Version of the file format; a reader refuses any other."""
ENROLMENT: Final = "enrolment"
ROSTER: Final = "roster"
NONCE_BYTES: Final = 16


def _from_hex(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError("not a hexadecimal string") from None


def _sized(size: int) -> Any:
    def check(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{size} bytes ({2 * size} hex digits) are needed, this has {len(value)}")
        return value

    return check


def _on_curve(value: bytes) -> bytes:
    try:
        exchange_key(value)
    except InvalidItem as error:
        raise ValueError(str(error)) from None
    return value


def _websocket_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if parts.scheme not in {"ws", "wss"} or not host or not port:
        raise ValueError("a replica's address looks like ws://host:port or wss://host:port")
    return value


def _inside(value: str) -> str:
    if value.startswith(("/", "~")) or "\\" in value or ".." in value.split("/"):
        raise ValueError("a path inside the deployment's directory is needed")
    return value


def is_name(text: str) -> bool:
    """Whether `text` can name a node: also a file name below keys/, state/ and logs/."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) is not None


def _file_name(value: str) -> str:
    if not is_name(value):
        raise ValueError("a name is 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")
    return value


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        for item in value if isinstance(value, list) else (value,):
            if not isinstance(item, bool | int | float | str):
                raise ValueError(f"option {name!r} must be a boolean, a number, a string or a list of these")
    return options


_hex_form = (BeforeValidator(_from_hex), PlainSerializer(bytes.hex))
Key = Annotated[bytes, *_hex_form, AfterValidator(_sized(32)), AfterValidator(_on_curve)]
Hash = Annotated[bytes, *_hex_form, AfterValidator(_sized(32))]
SignatureBytes = Annotated[bytes, *_hex_form, AfterValidator(_sized(64))]
Nonce = Annotated[bytes, *_hex_form, AfterValidator(_sized(NONCE_BYTES))]
Name = Annotated[str, AfterValidator(_file_name)]
Epoch = Annotated[int, Field(ge=1, le=2**31 - 1)]


Entry = TypeVar("Entry", bound="ReplicaEntry | ClientEntry")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelEntry(_Section):
    """The initial model: its file, the content digest of its flat bytes, and its coordinate counts."""

    file: Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_inside)] = "model.safetensors"
    digest: Hash
    weights: Annotated[int, Field(ge=1, le=2**34)]
    buffers: Annotated[int, Field(ge=0, le=2**34)] = 0


class TaskEntry(_Section):
    """What is trained: `digits`, `npz:PATH` or `module:factory`, and the factory's keyword arguments.

    `seed` decides the initial weights, the data partition and the order of training.
    """

    factory: Annotated[str, Field(min_length=1, max_length=400)]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    options: Annotated[dict[str, Any], AfterValidator(_plain)] = {}


class TrainingEntry(_Section):
    """Local training; `local_steps` 0 means one pass over the client's data."""

    learning_rate: Annotated[float, Field(ge=0, le=1e6)]
    local_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32


class PrivacyEntry(_Section):
    """The budget at which every client stops: epsilon at delta, user level, for all its uploads together."""

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5


class ReplicaEntry(_Section):
    """An aggregator: position in the file is its index (and, plus one, its Shamir point)."""

    name: Name
    url: Annotated[str, AfterValidator(_websocket_url)]
    key: Key

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)


class ClientEntry(_Section):
    """A client, enrolled by the operator from `start_epoch` on."""

    name: Name
    key: Key
    start_epoch: Epoch = 1
    signature: SignatureBytes


class RosterEntry(_Section):
    """The first roster: all clients of the file, in the order of their keys."""

    number: Annotated[int, Field(ge=0, le=0)] = 0
    start_epoch: Epoch = 1
    signature: SignatureBytes


class Deployment(_Section):
    """A checked deployment file.

    `digest` names the deployment in every signature, handshake and manifest. It covers what safety depends
    on: format, nonce, operator key, protocol parameters, replica keys in order, and the initial model. It
    leaves out names, addresses, task and training settings (these can change) and clients (rosters,
    signed under this digest, change).
    """

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    name: Name
    nonce: Nonce
    """Random, so that two deployments with the same keys never accept each other's signatures."""
    operator: Key
    parameters: Parameters
    model: ModelEntry
    task: TaskEntry
    training: TrainingEntry
    privacy: PrivacyEntry | None = None
    roster: RosterEntry
    # TOML arrays arrive as lists, so these two are not taken strictly.
    replicas: Annotated[tuple[ReplicaEntry, ...], Strict(False), Field(min_length=1, max_length=16)]
    clients: Annotated[tuple[ClientEntry, ...], Strict(False), Field(min_length=1)]

    @classmethod
    def create(
        cls,
        *,
        name: str,
        nonce: bytes,
        operator: Identity,
        parameters: Parameters,
        model: ModelEntry,
        task: Mapping[str, Any],
        training: Mapping[str, Any],
        replicas: Mapping[str, tuple[str, bytes]],
        clients: Mapping[str, bytes],
        privacy: PrivacyEntry | None = None,
        source: str = "deployment.toml",
    ) -> Self:
        """A new deployment, signed by `operator`.

        `task` and `training` are the keys of these sections; `replicas` maps names to URL and public key,
        `clients` names to public keys, both in order.

        Raises `ConfigurationError` like `parse`.
        """
        named = _digest(nonce, operator.public, parameters, [key for _, key in replicas.values()], model)
        roster = Roster(number=0, start_epoch=1, members=tuple(sorted(clients.values())))
        content = {
            "format": FORMAT,
            "name": name,
            "nonce": nonce,
            "operator": operator.public,
            "parameters": parameters,
            "model": model,
            "task": dict(task),
            "training": dict(training),
            "privacy": privacy,
            "roster": {"signature": operator.sign(ROSTER, named, roster.digest)},
            "replicas": [{"name": name, "url": url, "key": key} for name, (url, key) in replicas.items()],
            "clients": [
                {
                    "name": client,
                    "key": key,
                    "signature": operator.sign(ENROLMENT, named, enrolment_body(key, 1)),
                }
                for client, key in clients.items()
            ],
        }
        return cls._validated(content, source=source, text="")

    @classmethod
    def parse(cls, text: str, *, source: str = "deployment.toml") -> Self:
        """The deployment that TOML `text` describes; `source` is the file's name in messages.

        Raises `ConfigurationError` (or its `ParameterError`) on malformed TOML, an unknown or missing key, a
        bad value, a duplicate name or key, a wrong signature, or the `tiny` preset.
        """
        try:
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigurationError(f"{source}: not valid TOML: {error}; correct that line") from None
        found = content.get("format")
        if found is not None and (type(found) is not int or found != FORMAT):
            raise ConfigurationError(
                f"{source}: format {found!r} is not known to this version of asyncfl, which reads format "
                f"{FORMAT}; use the version that wrote the file, or make a new one with `asyncfl init`"
            )
        return cls._validated(content, source=source, text=text)

    @classmethod
    def _validated(cls, content: Mapping[str, Any], *, source: str, text: str) -> Self:
        try:
            deployment = cls.model_validate(content)
        except ParameterError as error:
            raise ParameterError(f"{source}: [parameters]: {error}") from None
        except ValidationError as error:
            raise ConfigurationError(explain(error, cls, source, text)) from None
        deployment._check(source)
        return deployment

    def _check(self, source: str) -> None:
        """What concerns several sections at once. Raises `ConfigurationError`."""
        if self.parameters.preset == "tiny":
            raise ConfigurationError(
                f'{source}: parameters.preset: "tiny" protects nothing and is for unit tests only; '
                'use "standard" on a network'
            )
        if len(self.replicas) != self.parameters.replicas:
            raise ConfigurationError(
                f"{source}: parameters.replicas is {self.parameters.replicas}, but {len(self.replicas)} "
                "[[replicas]] are listed; make the two agree"
            )
        if len(self.clients) < self.parameters.cell_size:
            raise ConfigurationError(
                f"{source}: parameters.cell_size is {self.parameters.cell_size}, but only "
                f"{len(self.clients)} [[clients]] are listed: no cell could be filled; lower cell_size or "
                "enrol more clients"
            )
        names = [(where, entry.name.casefold()) for where, entry in self._parties()]
        _refuse_duplicates(source, "name", names)
        urls = [(f"replicas[{index}]", entry.url) for index, entry in enumerate(self.replicas)]
        _refuse_duplicates(source, "url", urls)
        keys = [("operator", self.operator), *((where, entry.key) for where, entry in self._parties())]
        _refuse_duplicates(source, "key", ((where, key.hex()) for where, key in keys))
        for index, client in enumerate(self.clients):
            if client.start_epoch > self.roster.start_epoch:
                raise ConfigurationError(
                    f"{source}: clients[{index}].start_epoch: {client.name} starts at epoch "
                    f"{client.start_epoch}, after the roster that holds it "
                    f"(epoch {self.roster.start_epoch}); let it start no later"
                )
            body = enrolment_body(client.key, client.start_epoch)
            if not verify(self.operator, ENROLMENT, self.digest, body, client.signature):
                raise ConfigurationError(
                    f"{source}: clients[{index}].signature: the operator did not enrol {client.name} with "
                    "this key, start epoch and deployment; restore the file from the operator, who signs "
                    "every change"
                )
        if not verify(self.operator, ROSTER, self.digest, self._roster.digest, self.roster.signature):
            raise ConfigurationError(
                f"{source}: roster.signature: the operator did not sign this list of clients for this "
                "deployment; restore the file from the operator, who signs every change"
            )

    def _parties(self) -> Iterable[tuple[str, ReplicaEntry | ClientEntry]]:
        for index, replica in enumerate(self.replicas):
            yield f"replicas[{index}]", replica
        for index, client in enumerate(self.clients):
            yield f"clients[{index}]", client

    def render(self) -> str:
        """TOML text that `parse` reads back to an equal deployment."""
        return tomli_w.dumps(self.model_dump(mode="python", exclude_none=True))

    @cached_property
    def digest(self) -> bytes:
        """32 bytes; see the class."""
        return _digest(
            self.nonce, self.operator, self.parameters, [entry.key for entry in self.replicas], self.model
        )

    @cached_property
    def _roster(self) -> Roster:
        return Roster(
            number=self.roster.number,
            start_epoch=self.roster.start_epoch,
            members=tuple(sorted(client.key for client in self.clients)),
        )

    def federation(self) -> Federation:
        """The public facts that both state machines are given."""
        return Federation(
            digest=self.digest,
            parameters=self.parameters,
            replica_keys=tuple(entry.key for entry in self.replicas),
            rosters=(self._roster,),
            weights=self.model.weights,
            buffers=self.model.buffers,
            initial_model=self.model.digest,
            settings=Settings(
                learning_rate=self.training.learning_rate,
                local_steps=self.training.local_steps,
                batch_size=self.training.batch_size,
            ),
        )

    @cached_property
    def names(self) -> dict[bytes, str]:
        """Name of every replica and client, by public key."""
        return {entry.key: entry.name for _, entry in self._parties()}

    def replica(self, name: str) -> ReplicaEntry:
        """Raises `ConfigurationError` for a name that is no replica's."""
        return _named(name, self.replicas, "replica")

    def client(self, name: str) -> ClientEntry:
        """Raises `ConfigurationError` for a name that is no client's."""
        return _named(name, self.clients, "client")

    def client_index(self, name: str) -> int:
        """Position in the file: which part of the task's data this client has."""
        return self.clients.index(self.client(name))


def enrolment_body(key: bytes, start_epoch: int) -> bytes:
    """What the operator signs to enrol a client."""
    return pack((key, start_epoch))


def _digest(
    nonce: bytes, operator: bytes, parameters: Parameters, replica_keys: Sequence[bytes], model: ModelEntry
) -> bytes:
    settings = tuple(sorted(parameters.model_dump().items()))
    initial = (model.digest, model.weights, model.buffers)
    facts = (FORMAT, nonce, operator, settings, tuple(replica_keys), initial)
    return digest("asyncfl/1/deployment", pack(facts))


def _named(name: str, entries: Sequence[Entry], role: str) -> Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    known = [entry.name for entry in entries]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {_few(known)}"
    raise ConfigurationError(f"no {role} is called {name!r} in this deployment; {hint}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} … {names[-1]} ({len(names)})"


def _refuse_duplicates(source: str, what: str, values: Iterable[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    for where, value in values:
        if value in first:
            raise ConfigurationError(
                f"{source}: {where}.{what}: {value} is also the {what} of {first[value]}; "
                "every party needs its own"
            )
        first[value] = where
