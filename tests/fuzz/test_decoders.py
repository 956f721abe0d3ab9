"""Every decoder takes what it should, refuses the rest with its own error, and needs neither memory nor time for it.

A few thousand inputs here; `make soak` runs a million (`scripts/fuzz.py`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from asyncfl.messages import MESSAGE_TYPES, RosterStatement, Rows, View, decode_message
from asyncfl.wire import MAX_MESSAGE_BYTES, Wire, pack
from scripts.fuzz import SHARES
from tests.fuzz.campaign import CORPUS, corpus, run
from tests.fuzz.file_targets import run_deployment
from tests.fuzz.harness import Report, Target, judge
from tests.fuzz.targets import TARGETS, run_message
from tests.fuzz.test_found_inputs import frame

INPUTS = {"row": 40, "deployment": 60, "experiment": 40, "transfer": 60, "message": 1000}
OTHERS = 250


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_mutated_inputs_are_taken_or_refused(target: Target) -> None:
    report = run(target, len(target.seeds()) + len(corpus(target)) + INPUTS.get(target.name, OTHERS), seed=2)
    assert not report.findings
    assert len(report.outcomes) > 1, "nothing but one kind of refusal: the mutations do not reach the decoder"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_the_mutations_start_from_is_taken(target: Target) -> None:
    """Some targets run an input through what nobody should take, so not all of it."""
    taken = [data for data in target.seeds() if judge(target, data).outcome == "taken"]
    assert taken or target.name in ("record", "evidence")


def lists_in(value: object) -> Iterator[tuple[object, ...]]:
    """Every tuple in the fields of a message, and in theirs."""
    if isinstance(value, tuple):
        yield value
        for each in value:
            yield from lists_in(each)
    elif isinstance(value, Wire):
        for name in type(value).model_fields:
            yield from lists_in(getattr(value, name))


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_mutations_start_from_every_message_with_something_in_all_its_lists(kind: type[Wire]) -> None:
    """A message type of tomorrow is there by itself; one whose sample is no valid message fails here."""
    there = [decode_message(data) for data in TARGETS["message"].seeds()]
    assert any(all(lists_in(message)) for message in there if isinstance(message, kind))


def test_the_campaign_has_a_share_for_every_target() -> None:
    assert {name: share for name, share in SHARES.items() if share > 0}.keys() == TARGETS.keys()


def test_a_seed_gives_the_same_inputs_again() -> None:
    def seen(seed: int) -> list[bytes]:
        inputs: list[bytes] = []
        target = Target("sum", inputs.append, lambda: [b"seed", b"other"], ())
        run(target, 200, seed)
        return inputs

    assert seen(3) == seen(3) != seen(4)


def test_stored_inputs_belong_to_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= set(TARGETS)


# that the judge can judge


def judged(call: Callable[[bytes], object]) -> Report:
    return run(Target("t", call, lambda: [b"abc"], (KeyError,)), 3, 0)


def test_an_undocumented_error_is_a_finding() -> None:
    def crash(data: bytes) -> None:
        raise ZeroDivisionError("7 of 12345678")

    assert list(judged(crash).findings) == ["crash: ZeroDivisionError: # of #"]


def test_memory_out_of_proportion_is_a_finding() -> None:
    assert "memory" in next(iter(judged(lambda data: bytearray(8 << 20)).findings))


def test_a_refusal_is_none() -> None:
    def refuse(data: bytes) -> None:
        raise KeyError(data)

    assert not judged(refuse).findings


# time in proportion


def seconds_for(call: Callable[[bytes], object], refusals: tuple[type[Exception], ...], data: bytes) -> float:
    gc.collect()  # or else a collection of what other tests left falls into it
    started = time.thread_time()
    with suppress(refusals):
        call(data)
    return time.thread_time() - started


def once_of(attempts: int, holds: Callable[[], bool]) -> bool:
    """Whether it held at least once: on a busy machine processor time is now and then too long, never too short."""
    return any(holds() for _ in range(attempts))


def digests(count: int) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(32, "big") for number in range(count))


LARGE_MESSAGES = {
    "a roster of 16384": lambda: frame(RosterStatement, (1, 1, digests(16384), bytes(64))),
    "full rows": lambda: frame(Rows, (bytes(32), 1, tuple((i + 1, digests(120)) for i in range(250)), False)),
    "as many elements as there may be": lambda: frame(
        View, (bytes(32), 1, 1, ((1, (0,) * 32_700),), False, 0, bytes(32))
    ),
    "arrays of arrays": lambda: pack((21, (((((((),) * 4000,),),),),))),
    "bytes to the limit": lambda: (
        b"\xc6" + (MAX_MESSAGE_BYTES - 5).to_bytes(4, "big") + bytes(MAX_MESSAGE_BYTES - 5)
    ),
    "short texts to the limit": lambda: b"\xdc\x7f\xff" + b"\xa1a" * 32767,
    "one text to the limit": lambda: b"\xdb\x00\x0f\x00\x00" + "é".encode() * 491520,
    "garbage": lambda: b"\xc1" * MAX_MESSAGE_BYTES,
}


@pytest.mark.parametrize("make", LARGE_MESSAGES.values(), ids=LARGE_MESSAGES)
def test_the_largest_messages_hold_nobody_up(make: Callable[[], bytes]) -> None:
    """A channel is given up after six seconds of silence: all but a small part of these must remain."""
    data = make()
    assert len(data) <= MAX_MESSAGE_BYTES
    assert once_of(5, lambda: seconds_for(run_message, TARGETS["message"].refusals, data) < 0.5)


@pytest.mark.parametrize("name", ["a roster of 16384", "full rows"])
def test_the_largest_messages_are_valid_ones(name: str) -> None:
    """Or else it would be their refusal that is quick: `full rows` had lacked a field since ROWS had one more."""
    decode_message(LARGE_MESSAGES[name]())


REPEATED = {
    "tables": "[t{i}]\n",
    "clients": "[[clients]]\nname = 'c{i}'\n",
    "keys of one table": "k{i} = 1\n",
    "dotted keys": "a.b{i}.c = 1\n",
    "comments": "# {i}\n",
    "escapes in one text": "\\u0041",
    "arrays in one array": "[],",
    "inline tables": "{{a = 1}},",
    "digits": "1_0",
    "quotes": "'",
    "dots": ".",
    "dotted and quoted": '"a".',
    "escaped quotes": '\\"',
}
BEFORE = {
    "escapes in one text": 'x = "',
    "arrays in one array": "x = [",
    "inline tables": "x = [",
    "digits": "x = 1",
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_deployment_file_four_times_as_long_takes_no_sixteen_times_as_long(name: str) -> None:
    def text(size: int) -> bytes:
        lines, number = [BEFORE.get(name, "")], 0
        while size > 0:
            lines.append(REPEATED[name].format(i=number))
            size -= len(lines[-1])
            number += 1
        return "".join(lines).encode()

    refusals, short, long = TARGETS["deployment"].refusals, text(20_000), text(80_000)

    def holds() -> bool:
        once = seconds_for(run_deployment, refusals, short)
        return seconds_for(run_deployment, refusals, long) < 0.05 + 10 * once

    assert once_of(5, holds)
