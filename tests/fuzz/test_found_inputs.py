"""Inputs that once broke something, each named for what it broke. All were found by attacking the decoders."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError, MalformedMessage
from asyncfl.messages import MESSAGE_TYPES, Expired, Refused, RosterStatement, View, Wait, decode_message
from asyncfl.wire import MAX_MESSAGE_BYTES, Wire, pack
from node.commands.common import key_values
from node.deployment_files import DeploymentDirectory, read_key, read_public_key
from tests.deployment.test_deployment import TEXT

MIB = 1 << 20


def peak_of(call: Callable[[], object]) -> int:
    """Bytes of Python memory that `call` needs at its worst."""
    call()  # caches
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def frame(kind: type[Wire], fields: object) -> bytes:
    return pack((MESSAGE_TYPES.index(kind), fields))


def refusing_message(data: bytes) -> Callable[[], object]:
    def call() -> None:
        with pytest.raises(MalformedMessage):
            decode_message(data)

    return call


def refusing_deployment(text: str) -> Callable[[], object]:
    def call() -> None:
        with pytest.raises(ConfigurationError, match=r"^deployment\.toml"):
            Deployment.parse(text)

    return call


NOTHING_AT_ALL = (None,) * 65535
MESSAGES = {
    "3 kB of array headers, each said to hold 65535, had half a gigabyte allocated": b"\xdc\xff\xff" * 1000,
    "200 headers inside a field": b"\x92\x02\x93" + b"\xdc\x7f\xff" * 200,
    "650 kB of wrong elements took 400 MB and 8 s: each was noted": frame(
        View, (bytes(32), 1, 1, ((1, NOTHING_AT_ALL),) * 10, False)
    ),
    "16384 wrong members": frame(RosterStatement, (1, 1, (None,) * 16384, bytes(64))),
    "256 rows of wrong items": frame(
        View, (bytes(32), 1, 1, tuple((i, (0,) * 120) for i in range(256)), False)
    ),
    "a map of 64 keys": b"\x92\x02" + b"\xde\x00\x40" + b"\x01\x02" * 64,
}


@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES)
def test_messages_that_allocated_without_bound_are_refused_for_little_memory(data: bytes) -> None:
    assert len(data) <= MAX_MESSAGE_BYTES
    assert peak_of(refusing_message(data)) < MIB


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J\x1b[1;1H", "a\nb", "\r", "\x9b31m", "\u202etxt.exe", "a\x00", "\u2028", "\u200b"],
    ids=ascii,
)
@pytest.mark.parametrize("kind", [Wait, Refused], ids=lambda kind: kind.__name__)
def test_reasons_that_a_terminal_would_obey_are_no_messages(kind: type[Wire], text: str) -> None:
    """They reached the console log, and by the status page `asyncfl status`."""
    fields = (1, text, 0) if kind is Wait else (1, bytes(32), text)
    with pytest.raises(MalformedMessage, match="control characters"):
        decode_message(frame(kind, fields))


def test_reasons_in_words_of_any_language_are() -> None:
    decode_message(frame(Wait, (1, "n'est pas prêt: 模型未就绪 – …", 0)))
    decode_message(frame(Expired, (1, bytes(32))))


DOCUMENTS = {
    "a decimal integer of 5000 digits raised ValueError": "x = " + "9" * 5000,
    "a hexadecimal format could not be shown in the error": "format = 0x" + "f" * 5000,
    "a hexadecimal value could not be shown in the error": "format = 1\nname = 0x" + "f" * 5000,
    "an integer of 65 bits, deep in the file": "format = 1\n[task.options]\nx = [1, 18446744073709551616]",
    "a key of 3000 parts took 37 MB, one of 30000 would have taken 3.7 GB": "a." * 30_000 + "b = 1",
    "a table of 30000 parts": "[" + "a." * 30_000 + "b]",
    "a key of 30000 quoted parts": '"a".' * 30_000 + "b = 1",
    "a key of many parts inside an inline table": "a = {" + "a." * 30_000 + "b = 1}",
    "arrays 5000 deep": "a = " + "[" * 5000,
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_deployment_files_that_crashed_or_swelled_are_refused(text: str) -> None:
    assert peak_of(refusing_deployment(text)) < MIB + 64 * len(text)


def test_an_unknown_key_with_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Deployment.parse('format = 1\n"\\u001b[31mred" = 1')
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('file = "model.safetensors"', 'file = "a\\u0000b"'),
        ('file = "model.safetensors"', 'file = "\\u001b[2J"'),
        ('factory = "digits"', 'factory = "digits\\u001b[2J"'),
        ("ws://127.0.0.1:7000", "ws://h\\u001bo:7000"),
        ("ws://127.0.0.1:7000", "ws://a b:7000"),
    ],
)
def test_texts_of_a_deployment_file_that_no_file_or_terminal_bears(old: str, new: str) -> None:
    """A path with a zero byte was taken, and opening the model raised ValueError; escape sequences reached `status`."""
    assert old in TEXT
    with pytest.raises(ConfigurationError) as caught:
        Deployment.parse(TEXT.replace(old, new, 1))
    assert str(caught.value).isprintable()


def test_many_dots_in_values_are_no_long_key() -> None:
    numbers = ", ".join(f"0.{i}" for i in range(100))
    hosts = ", ".join(f'"10.0.0.{i}"' for i in range(100))
    with pytest.raises(ConfigurationError, match="unknown key"):
        Deployment.parse(f"x = [{numbers}, {hosts}] # {'.' * 99}")


def test_an_option_of_5000_digits_is_text() -> None:
    assert key_values("--option", ["x=" + "9" * 5000]) == {"x": "9" * 5000}


@pytest.mark.parametrize("read", [read_key, read_public_key])
def test_a_key_file_that_never_ends_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "endless.key"
    path.write_bytes(b"asyncfl-private-key-1 " + b"0" * MIB)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="right file"):
        read(path)


def test_a_deployment_file_that_is_a_link_to_an_endless_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.deployment_files.MAX_BYTES", MIB)  # the limit is 64 times this
    (tmp_path / "deployment.toml").symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="right file"):
        DeploymentDirectory.load(tmp_path)
