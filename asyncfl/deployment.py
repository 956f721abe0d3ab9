"""The deployment file: what everybody of one deployment must agree on, and where the replicas are.

`Deployment.parse` reads TOML text, checks all of it and every operator signature, and refuses with a
`ConfigurationError` that names the file, the line or key, the cause and what to do; `Deployment.render`
writes it. Reading and writing files is the shell's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import tomli_w
from pydantic import Field, Strict, ValidationError

from asyncfl.deployment_fields import (
    Address,
    FileInside,
    Hash,
    Key,
    Line,
    Name,
    Nonce,
    Options,
    Section,
)
from asyncfl.deployment_rosters import (
    ENROLMENT,
    ROSTER,
    ClientEntry,
    LaterRosterEntry,
    RosterEntry,
    check_clients,
    check_later,
    check_room,
    check_signatures,
    compute_rosters,
    enrolment_body,
    first_clients,
)
from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError, ParameterError
from asyncfl.federation import Federation, Roster
from asyncfl.identity import Identity, verify
from asyncfl.parameters import Parameters
from asyncfl.schedule import Schedule
from asyncfl.stopping import Stop
from asyncfl.toml_document import parse_document
from asyncfl.toml_errors import explain, shown
from asyncfl.wire import pack

FORMAT: Final = 1
"""Version of the file format; a reader refuses any other."""

Entry = TypeVar("Entry", bound="ReplicaEntry | ClientEntry")


class ModelEntry(Section):
    """The initial model: its file, the content digest of its flat bytes, and its coordinate counts."""

    file: FileInside = "model.safetensors"
    digest: Hash
    weights: Annotated[int, Field(ge=1, le=2**34)]
    buffers: Annotated[int, Field(ge=0, le=2**34)] = 0
    frozen_buffers: bool = False
    """Floating buffers stay as the initial model has them, and none travels."""


class TaskEntry(Section):
    """What is trained: `digits`, `npz:PATH` or `module:factory`, and the factory's keyword arguments.

    `seed` decides the initial weights, the data partition and the order of training.
    """

    factory: Line
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    options: Options = Field(default_factory=dict)


class PrivacyEntry(Section):
    """The budget at which every client stops: epsilon at delta, user level, for all its uploads together."""

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5


class ReplicaEntry(Section):
    """An aggregator: position in the file is its index (and, plus one, its Shamir point)."""

    name: Name
    url: Address
    key: Key

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)


class Deployment(Section):
    """A checked deployment file.

    `digest` names the deployment in every signature, handshake and manifest. It covers what safety depends
    on: format, nonce, operator key, protocol parameters, replica keys in order, the initial model, and whether
    nodes may misbehave. It leaves out names, addresses, task, training and stop settings (these can change) and
    clients (rosters, signed under this digest, change).
    """

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    name: Name
    nonce: Nonce
    """Random, so that two deployments with the same keys never accept each other's signatures."""
    operator: Key
    allow_misbehaviour: bool = False
    """A drill: nodes may misbehave on purpose. In the digest, so that such a node belongs to no other deployment."""
    parameters: Parameters
    model: ModelEntry
    task: TaskEntry
    training: Schedule
    privacy: PrivacyEntry | None = None
    stop: Stop | None = None
    roster: RosterEntry
    # TOML arrays arrive as lists, so these are not taken strictly.
    replicas: Annotated[tuple[ReplicaEntry, ...], Strict(False), Field(min_length=1, max_length=16)]
    clients: Annotated[tuple[ClientEntry, ...], Strict(False), Field(min_length=1)]
    """Everybody who was ever enrolled."""
    rosters: Annotated[tuple[LaterRosterEntry, ...], Strict(False)] = ()
    """Those after the first, in order."""

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
        stop: Mapping[str, Any] | None = None,
        allow_misbehaviour: bool = False,
        source: str = "deployment.toml",
    ) -> Self:
        """A new deployment, signed by `operator`.

        `task`, `training` and `stop` are the keys of these sections; `replicas` maps names to URL and public key,
        `clients` names to public keys, both in order.

        Raises `ConfigurationError` like `parse`.
        """
        keys = [key for _, key in replicas.values()]
        named = _digest(
            nonce, operator.public, parameters, keys, model, allow_misbehaviour=allow_misbehaviour
        )
        roster = Roster(number=0, start_epoch=1, members=tuple(sorted(clients.values())))
        content = {
            "format": FORMAT,
            "name": name,
            "nonce": nonce,
            "operator": operator.public,
            "allow_misbehaviour": allow_misbehaviour,
            "parameters": parameters,
            "model": model,
            "task": dict(task),
            "training": dict(training),
            "privacy": privacy,
            "stop": dict(stop) if stop else None,
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
        content = parse_document(text, source=source)
        found = content.get("format")
        if found is not None and (type(found) is not int or found != FORMAT):
            raise ConfigurationError(
                f"{source}: format {shown(found)} is not known to this version of asyncfl, which reads format "
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
        if len(self.first_clients) < self.parameters.cell_size:
            raise ConfigurationError(
                f"{source}: parameters.cell_size is {self.parameters.cell_size}, but only "
                f"{len(self.first_clients)} [[clients]] are in the first roster: no cell could be filled; lower "
                "cell_size or enrol more clients"
            )
        if self.stop is not None and not self.parameters.metrics:
            raise ConfigurationError(
                f"{source}: [stop] needs parameters.metrics = true: it goes by the accuracy on the clients' own test "
                "data, which nobody reports; make the deployment with --parameter metrics=true, or drop [stop]"
            )
        names = [(where, entry.name.casefold()) for where, entry in self._parties()]
        _refuse_duplicates(source, "name", names)
        urls = [(f"replicas[{index}]", entry.url) for index, entry in enumerate(self.replicas)]
        _refuse_duplicates(source, "url", urls)
        keys = [("operator", self.operator), *((where, entry.key) for where, entry in self._parties())]
        _refuse_duplicates(source, "key", ((where, key.hex()) for where, key in keys))
        largest = max(len(self.first_clients), *(len(roster.members) for roster in self.rosters), 0)
        check_room(source, len(self.clients), largest, self.parameters)
        check_later(source, self.roster, self.rosters, self.clients, self.parameters.cell_size)
        check_clients(source, self.roster, self.rosters, self.clients, self._signed)
        check_signatures(source, self.all_rosters, self._signed)

    def _signed(self, kind: str, body: bytes, signature: bytes) -> bool:
        return verify(self.operator, kind, self.digest, body, signature)

    def _parties(self) -> Iterable[tuple[str, ReplicaEntry | ClientEntry]]:
        for index, replica in enumerate(self.replicas):
            yield f"replicas[{index}]", replica
        for index, client in enumerate(self.clients):
            yield f"clients[{index}]", client

    def render(self) -> str:
        """TOML text that `parse` reads back to an equal deployment."""
        content = self.model_dump(mode="python", exclude_none=True)
        # TOML lets nobody add [[rosters]] or [[training.changes]] to an empty array.
        if not self.rosters:
            del content["rosters"]
        if not self.allow_misbehaviour:
            del content["allow_misbehaviour"]
        if not self.parameters.rule_options:
            del content["parameters"]["rule_options"]
        if not self.training.changes:
            del content["training"]["changes"]
        return tomli_w.dumps(content)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes; see the class."""
        keys = [entry.key for entry in self.replicas]
        return _digest(
            self.nonce, self.operator, self.parameters, keys, self.model,
            allow_misbehaviour=self.allow_misbehaviour,
        )  # fmt: skip

    @cached_property
    def all_rosters(self) -> tuple[Roster, ...]:
        """The first and those that followed it, by number."""
        return compute_rosters(self.roster, self.rosters, self.clients)

    @cached_property
    def first_clients(self) -> tuple[ClientEntry, ...]:
        """Members of the first roster, over which the task's data is split, whoever comes later."""
        return first_clients(self.roster, self.clients)

    def takes_part(self, name: str) -> tuple[tuple[int, int | None], ...]:
        """First and last epochs in which a client is in the roster, in order; the last epoch None: no end."""
        key = self.client(name).key
        spans: list[tuple[int, int | None]] = []
        for roster in self.all_rosters:
            inside = bool(spans) and spans[-1][1] is None
            if inside and key not in roster.position:
                spans[-1] = (spans[-1][0], roster.start_epoch - 1)
            elif not inside and key in roster.position:
                spans.append((roster.start_epoch, None))
        return tuple(spans)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the newest roster's members."""
        if self.rosters:
            return self.rosters[-1].members
        return tuple(client.name for client in self.first_clients)

    def federation(self) -> Federation:
        """The public facts that both state machines are given."""
        return Federation(
            digest=self.digest,
            parameters=self.parameters,
            operator=self.operator,
            replica_keys=tuple(entry.key for entry in self.replicas),
            rosters=self.all_rosters,
            weights=self.model.weights,
            buffers=self.model.buffers,
            initial_model=self.model.digest,
            schedule=self.training,
            stop=self.stop,
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
        """Which part of the task's data this client has.

        A client of the first roster has its own; a later one shares that of a client of the first (its position
        in the file, modulo their number), so that nobody's data moves.
        """
        client = self.client(name)
        if client in self.first_clients:
            return self.first_clients.index(client)
        return self.clients.index(client) % len(self.first_clients)

    def next_roster(
        self,
        operator: Identity,
        *,
        start_epoch: int,
        members: Sequence[str],
        enrolled: Mapping[str, bytes],
        source: str = "deployment.toml",
    ) -> Self:
        """This deployment with one more roster, signed by `operator`; this one stays as it is.

        `members` are names, those of `enrolled` (name to public key: clients that are new) among them.

        Raises `ConfigurationError` like `parse`.
        """
        keys = {**{client.name: client.key for client in self.clients}, **enrolled}
        roster = Roster(
            number=len(self.rosters) + 1,
            start_epoch=start_epoch,
            members=tuple(sorted(keys[name] for name in members)),
        )
        content = self.model_dump(mode="python")
        content["parameters"] = self.parameters
        content["clients"] = [
            *content["clients"],
            *(
                {
                    "name": name,
                    "key": key,
                    "start_epoch": start_epoch,
                    "signature": operator.sign(ENROLMENT, self.digest, enrolment_body(key, start_epoch)),
                }
                for name, key in enrolled.items()
            ),
        ]
        content["rosters"] = [
            *content["rosters"],
            {
                "number": roster.number,
                "start_epoch": start_epoch,
                "members": list(members),
                "signature": operator.sign(ROSTER, self.digest, roster.digest),
            },
        ]
        return self._validated(content, source=source, text="")


def _digest(
    nonce: bytes,
    operator: bytes,
    parameters: Parameters,
    replica_keys: Sequence[bytes],
    model: ModelEntry,
    *,
    allow_misbehaviour: bool,
) -> bytes:
    initial = (model.digest, model.weights, model.buffers, model.frozen_buffers)
    facts: tuple[Any, ...] = (FORMAT, nonce, operator, parameters.digested(), tuple(replica_keys), initial)
    if allow_misbehaviour:
        facts += ("allow_misbehaviour",)
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
