"""Calls of the operator to the replicas: short conversations over the same channels that nodes use.

::

    operator                             replica
    ROSTER_REQUEST(after)        ----->
                                 <-----  FRONT, and the statements of rosters after that
    ROSTER_STATEMENT, ...        ----->  (those that it lacks, or has another of)
                                 <-----  FRONT, once they are on its disk
    ROSTER_REQUEST(after)        ----->
                                 <-----  FRONT, and what it has then

Of exclusions with EXCLUSION_REQUEST and EXCLUSION_STATEMENT instead.

A call that fails is made again until `deadline` seconds are over, or until waiting longer can change nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from asyncfl.channel import Channel
from asyncfl.deployment import Deployment, ReplicaEntry
from asyncfl.errors import AsyncflError, HandshakeError, MalformedMessage
from asyncfl.identity import Identity, verify
from asyncfl.messages import (
    ExclusionRequest,
    ExclusionStatement,
    Front,
    Message,
    RosterRequest,
    RosterStatement,
    decode_message,
    encode_message,
)
from asyncfl.rosters import STATEMENTS_AT_ONCE
from node.transport.connections import Guarded, dial
from node.transport.handshake import initiate
from node.transport.limits import Limits

ANSWER_SECONDS: Final = 5.0
"""How long a replica may take for one answer. It cuts whoever is silent for longer."""
PAUSE_SECONDS: Final = 0.5
"""Between two calls to a replica that could not be reached."""
TRIES: Final = 2
"""A replica that could not be reached so often is not waited for, unless there are too few without it."""
STRAGGLER_SECONDS: Final = 3.0
"""How long the others are waited for once n-t have answered."""
SAY_SECONDS: Final = 0.2


Statement = TypeVar("Statement", RosterStatement, ExclusionStatement)


@dataclass(frozen=True, slots=True)
class Subject(Generic[Statement]):
    """What a conversation is about: one of the operator's kinds of numbered statements."""

    noun: str
    kind: type[Statement]
    request: Callable[[int], Message]
    number: Callable[[Front], int]
    """Of the newest statement that a FRONT reports."""


ROSTERS: Final = Subject(
    "roster", RosterStatement, lambda after: RosterRequest(after=after), lambda front: front.roster
)
EXCLUSIONS: Final = Subject(
    "exclusion",
    ExclusionStatement,
    lambda after: ExclusionRequest(after=after),
    lambda front: front.statement,
)


@dataclass(frozen=True, slots=True)
class Answer(Generic[Statement]):
    """What a replica said: its front, the number of its newest statement, and the statements that it sent last."""

    front: int
    number: int
    statements: tuple[Statement, ...]
    """Signed by the operator; ascending."""
    seen: tuple[Statement, ...]
    """These, and what it had in their place before it was given others."""

    @property
    def newest(self) -> Statement | None:
        return self.statements[-1] if self.statements else None


@dataclass(slots=True)
class Call(Generic[Statement]):
    """The state of the calls to one replica: an answer, or how often and why there was none."""

    answer: Answer[Statement] | None = None
    failures: int = 0
    problem: str | None = None
    there: bool = False
    """Something answers at its address, but not as a replica should."""

    @property
    def over(self) -> bool:
        return self.answer is not None or self.failures >= TRIES


Say = Callable[[str], None]
"""Told again and again what is waited for."""


@dataclass(frozen=True, slots=True)
class Caller(Generic[Statement]):
    """Calls the replicas of `deployment` as its operator."""

    subject: Subject[Statement]
    deployment: Deployment
    operator: Identity
    limits: Limits = field(default_factory=Limits)

    def call(
        self, statements: Sequence[Statement], *, after: int, deadline: float, say: Say
    ) -> dict[str, Call[Statement]]:
        """Ask every replica for its front, and give it those of `statements` (ascending) that it lacks.

        `after`: the highest number that the caller knows; statements beyond it come back in the answer.
        Returns, by name, once all have answered; or n-t have and the rest cannot be reached, or not within a
        few seconds more; or none can be reached; or after `deadline` seconds. Blocks; raises nothing for what
        replicas do.
        """
        return asyncio.run(self._call_all(statements, after, deadline, say))

    async def _call_all(
        self, statements: Sequence[Statement], after: int, deadline: float, say: Say
    ) -> dict[str, Call[Statement]]:
        replicas = self.deployment.replicas
        calls: dict[str, Call[Statement]] = {entry.name: Call() for entry in replicas}
        ends = time.monotonic() + deadline
        tasks = [
            asyncio.create_task(self._keep_calling(entry, calls[entry.name], statements, after))
            for entry in replicas
        ]
        try:
            while not _is_over(calls, self.deployment.parameters.quorum):
                if _answers(calls) >= self.deployment.parameters.quorum:
                    ends = min(ends, time.monotonic() + STRAGGLER_SECONDS)
                left = ends - time.monotonic()
                if left <= 0:
                    break
                say(_waited_for(calls, left))
                under_way = [task for task in tasks if not task.done()]
                await asyncio.wait(
                    under_way, timeout=min(SAY_SECONDS, left), return_when=asyncio.FIRST_COMPLETED
                )
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls.values():
            if call.answer is None and call.problem is None:
                call.problem = "it did not answer in time"
        return calls

    async def _keep_calling(
        self, entry: ReplicaEntry, call: Call[Statement], statements: Sequence[Statement], after: int
    ) -> None:
        while call.answer is None:
            try:
                call.answer = await self._converse(entry, statements, after)
                call.problem = None
            except (AsyncflError, OSError, WebSocketException) as error:  # a TimeoutError is an OSError
                call.failures += 1
                call.there = isinstance(error, AsyncflError)
                call.problem = _in_words(error, entry)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _converse(
        self, entry: ReplicaEntry, statements: Sequence[Statement], after: int
    ) -> Answer[Statement]:
        """One call: front and statements, and whatever statements it lacks. Raises for anything that goes wrong."""
        limits = self.limits
        connection = await dial(entry.url, limits)
        try:
            async with asyncio.timeout(limits.handshake_s):
                channel = await initiate(connection, self.operator, entry.key, self.deployment.digest)
            number = self.subject.number
            talk = _Talk(self.subject, self.deployment, connection, channel)
            front = await talk.ask(after)
            lacking = [
                statement
                for statement in statements
                if statement.number > number(front) or talk.has_another(statement)
            ]
            for statement in lacking:
                await talk.send(statement)
            if lacking:
                front = await talk.ask(after, lacking[-1].number)
            return Answer(front.front, number(front), talk.statements, tuple(talk.seen.values()))
        finally:
            with suppress(OSError, WebSocketException):
                async with asyncio.timeout(limits.close_s):
                    await connection.close(CloseCode.NORMAL_CLOSURE)
            connection.drop()


def _is_over(calls: Mapping[str, Call[Statement]], needed: int) -> bool:
    answered = _answers(calls)
    if answered == len(calls):
        return True
    return (answered >= needed or answered == 0) and all(call.over for call in calls.values())


def _answers(calls: Mapping[str, Call[Statement]]) -> int:
    return sum(call.answer is not None for call in calls.values())


def _waited_for(calls: Mapping[str, Call[Statement]], left: float) -> str:
    missing = [name for name, call in calls.items() if call.answer is None]
    return f"waiting for {', '.join(missing)} to answer ({left:.0f} s left)"


class _Talk(Generic[Statement]):
    """Messages over one channel. Of what comes, only fronts and the operator's own statements count."""

    def __init__(
        self, subject: Subject[Statement], deployment: Deployment, connection: Guarded, channel: Channel
    ) -> None:
        self._subject: Subject[Statement] = subject
        self._deployment = deployment
        self._connection = connection
        self._channel = channel
        self._held: dict[int, Statement] = {}
        """By number, what the replica said that it has."""
        self.seen: dict[bytes, Statement] = {}
        """All that it ever said, by digest."""

    @property
    def statements(self) -> tuple[Statement, ...]:
        return tuple(self._held[number] for number in sorted(self._held))

    def has_another(self, statement: Statement) -> bool:
        """Whether the replica holds one of this number that says something else."""
        held = self._held.get(statement.number)
        return held is not None and held.body() != statement.body()

    async def send(self, message: Message) -> None:
        await self._connection.send(self._channel.seal([encode_message(message)]))

    async def ask(self, after: int, wanted: int = 0) -> Front:
        """A FRONT with at least number `wanted`, and all statements above `after` up to the number in it."""
        self._held.clear()
        while True:
            await self.send(self._subject.request(after))
            front = await self._front(after, wanted)
            reached = max(self._held, default=after)
            if not after < reached < self._subject.number(front):
                return front
            after = reached

    async def _front(self, after: int, wanted: int) -> Front:
        """The next FRONT with at least number `wanted`, with the next statements where it reports more than `after`."""
        said: Front | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while said is None or self._subject.number(said) < wanted or self._lacks(said, after):
                    frame = await self._connection.recv(decode=False)
                    for part in self._channel.open(frame):
                        message = decode_message(part)
                        if isinstance(message, Front):
                            said = message
                        elif isinstance(message, self._subject.kind):
                            self._take(message)
        except TimeoutError:
            if said is None or self._subject.number(said) < wanted:
                noun = self._subject.noun
                raise TimeoutError(
                    f"it did not take {noun} {wanted} within {ANSWER_SECONDS:g} s" if wanted else ""
                ) from None
        return said

    def _lacks(self, said: Front, after: int) -> bool:
        return max(self._held, default=after) < min(self._subject.number(said), after + STATEMENTS_AT_ONCE)

    def _take(self, statement: Statement) -> None:
        deployment = self._deployment
        signed = verify(
            deployment.operator,
            statement.KIND,
            deployment.digest,
            statement.body(),
            statement.signature,
        )
        if signed:
            self._held[statement.number] = self.seen[statement.body()] = statement


def _in_words(error: Exception, entry: ReplicaEntry) -> str:
    if isinstance(error, HandshakeError):
        return "it refuses the operator's key: another deployment runs there, or an asyncfl that knows no rosters"
    if isinstance(error, MalformedMessage):
        return f"it sent what is no message: {error}"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {entry.url}"
    if isinstance(error, TimeoutError):
        return str(error) or f"no answer from {entry.url}"
    if isinstance(error, ConnectionClosed):
        return "it closed the connection"
    return f"{entry.url}: {error}"
