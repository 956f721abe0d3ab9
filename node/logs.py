"""Structured logs of a process: one line an event, for people or as JSON, on standard error.

Lines are written by a thread of their own, so that a slow or blocked reader never holds up the event loop;
beyond a bound they are dropped and counted. Private keys, shares and other bytes never appear: 32-byte
values (public keys, digests) are shortened or named, other bytes show their length only, and tracebacks
never show the values of variables.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from asyncfl.digest import DIGEST_BYTES
from asyncfl.errors import ConfigurationError
from node.log_limit import Limiter

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("console", "json")
MAX_WAITING_LINES: Final = 20_000
FLUSH_SECONDS: Final = 2.0
_SHOWN_DIGITS: Final = 16
_SECRET_WORDS: Final = ("secret", "seed", "private", "password", "share_value", "token")


def configure(
    *, form: str = "console", level: str = "info", names: Mapping[bytes, str] | None = None,
    stream: TextIO | None = None,
) -> Writer:  # fmt: skip
    """Set up logging for this process; `close` the writer at its end.

    `form` is one of `FORMATS`, `level` one of `LEVELS`; `names` are shown in place of public keys; `stream`
    is standard error unless given. Raises `ConfigurationError` for an unknown form or level.
    """
    if form not in FORMATS:
        raise ConfigurationError(f"unknown log format {form!r}: use {' or '.join(FORMATS)}")
    if level not in LEVELS:
        raise ConfigurationError(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
    target = stream or sys.stderr
    writer = Writer(target)
    renderer: structlog.typing.Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    exceptions = [structlog.processors.format_exc_info] if form == "json" else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            Limiter(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _Censor(names or {}),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(file=cast(TextIO, writer)),
        cache_logger_on_first_use=False,
    )
    return writer


class Writer:
    """A text file that never blocks its caller."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue `text`; dropped when too much is queued already."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the thread flushes."""

    def close(self) -> None:
        """Write what is queued, for at most `FLUSH_SECONDS`."""
        try:
            self._lines.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            return
        self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        while (text := self._lines.get()) is not None:
            try:
                if self._dropped:
                    lost, self._dropped = self._dropped, 0
                    self._stream.write(f"... {lost} log lines dropped: the reader of this log is too slow\n")
                self._stream.write(text)
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                # The reader is gone; the node's work does not depend on its log.
                continue
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class _Censor:
    """Keeps secrets out and makes what is left short."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._names = dict(names)
        # The transport shortens keys itself.
        self._short = {key.hex()[:_SHOWN_DIGITS]: name for key, name in names.items()}

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        for field, value in event.items():
            if any(word in field.lower() for word in _SECRET_WORDS):
                event[field] = "(redacted)"
            elif field not in {"event", "exception", "exc_info"}:
                event[field] = self._shown(value)
        return event

    def _shown(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
            if data in self._names:
                return self._names[data]
            return data.hex()[:_SHOWN_DIGITS] if len(data) == DIGEST_BYTES else f"({len(data)} bytes)"
        if isinstance(value, str):
            return self._short.get(value, value)
        if isinstance(value, Mapping):
            return {
                str(key): "(redacted)"
                if any(word in str(key).lower() for word in _SECRET_WORDS)
                else self._shown(part)
                for key, part in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._shown(part) for part in value]
        return value
