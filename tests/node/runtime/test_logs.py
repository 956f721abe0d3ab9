"""Logs say who and what, never a secret, and never hold up the process that writes them."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from node import logs
from node.log_limit import BURST, KINDS, Limiter

SEED = bytes(range(100, 132))
ALICE = Identity(SEED)


@pytest.fixture(autouse=True)
def defaults_afterwards() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(form: str, *, level: str = "info", **fields: object) -> str:
    stream = io.StringIO()
    writer = logs.configure(form=form, level=level, names={ALICE.public: "alice"}, stream=stream)
    structlog.get_logger("test").info("something", **fields)
    writer.close()
    return stream.getvalue()


def test_json_is_one_object_a_line_with_time_level_and_event() -> None:
    line = json.loads(logged("json", epoch=3, peer=ALICE.public, blob=bytes(32), data=b"12345"))
    assert line.pop("timestamp").startswith("20")
    assert line == {
        "event": "something",
        "level": "info",
        "epoch": 3,
        "peer": "alice",
        "blob": "0" * 16,
        "data": "(5 bytes)",
    }


def test_a_key_that_the_transport_shortened_is_named_too() -> None:
    assert json.loads(logged("json", peer=ALICE.public.hex()[:16]))["peer"] == "alice"


@pytest.mark.parametrize("form", logs.FORMATS)
def test_no_secret_is_shown(form: str) -> None:
    hidden = {
        "seed": SEED.hex(),
        "private_key": SEED,
        "secret": [SEED],
        "identity": ALICE,
        "share": SEED * 90,
        "nested": {"client_secret": SEED.hex(), "data": (SEED * 2,)},
    }
    text = logged(form, **hidden)
    assert SEED.hex()[:16] not in text
    assert repr(SEED)[2:20] not in text
    assert "redacted" in text


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_traceback_shows_lines_but_no_values(form: str) -> None:
    stream = io.StringIO()
    writer = logs.configure(form=form, stream=stream)

    def fail(key: str) -> None:
        raise RuntimeError("it broke")

    try:
        fail(SEED.hex())
    except RuntimeError:
        structlog.get_logger("test").exception("failed")
    writer.close()
    assert "it broke" in stream.getvalue()
    assert 'raise RuntimeError("it broke")' in stream.getvalue().replace("\\", "")
    assert SEED.hex() not in stream.getvalue()


def test_lines_below_the_level_are_left_out() -> None:
    assert logged("json", level="warning") == ""


@pytest.mark.parametrize("wrong", [{"form": "xml"}, {"level": "loud"}])
def test_an_unknown_option_is_refused_with_the_known_ones(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"json|warning"):
        logs.configure(**wrong)


class Stuck(io.StringIO):
    """Takes nothing until released, like a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait()
        return super().write(text)


def test_a_reader_that_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 100)
    stream = Stuck()
    writer = logs.configure(stream=stream)
    log = structlog.get_logger("test")
    began = time.monotonic()
    for number in range(1000):
        log.info("line", number=number)
    assert time.monotonic() - began < 2
    stream.released.set()
    while "log lines dropped" not in stream.getvalue():
        log.info("later")
        assert time.monotonic() - began < 10
    writer.close()
    assert "number=0" in stream.getvalue()
    assert "number=999" not in stream.getvalue()


def test_a_reader_that_never_reads_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.1)
    stream = Stuck()
    writer = logs.configure(stream=stream)
    structlog.get_logger("test").info("line")
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 1
    stream.released.set()


def test_a_reader_that_is_gone_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    writing = logs.configure(stream=os.fdopen(writer, "w", closefd=False))
    structlog.get_logger("test").info("into the void")
    writing.close()
    os.close(writer)


def test_a_party_that_gives_much_to_say_does_not_fill_the_disk_and_others_are_heard() -> None:
    now = 0.0
    limit = Limiter(clock=lambda: now)

    def said(method: str, **event: Any) -> dict[str, Any] | None:
        try:
            return dict(limit(None, method, event))
        except structlog.DropEvent:
            return None

    bad = {"event": "bad_signature", "client": b"c" * 32}
    written = [said("warning", **bad) for _ in range(10_000)]
    assert sum(line is not None for line in written) == BURST
    assert said("warning", event="bad_signature", client=b"d" * 32) is not None
    assert all(said("info", event="entry", epoch=epoch) is not None for epoch in range(1000))
    now = 1.0
    again = said("warning", **bad)
    assert again is not None
    assert again["left_out"] == 10_000 - BURST
    assert said("warning", **bad) == bad
    assert said("warning", **bad) is None
    for number in range(3 * KINDS):
        said("info", event="connected", peer=number)
    assert len(limit._counts) == KINDS
