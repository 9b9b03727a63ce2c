"""
Write whatever a process prints to its standard error as records of its log.

Errors of commands, warnings and uncaught exceptions are then lines of JSON too,
for a collector that reads nothing else.
"""

import io
import logging
import sys
import threading
from types import TracebackType
from typing import Any

logger = logging.getLogger("connections.stderr")
_uncaught = logging.getLogger("connections.uncaught")


class _Printing(threading.local):
    """What one thread has printed since its last line break."""

    text = ""
    is_logging = False


class LogStream(io.TextIOBase):
    """A text stream each of whose lines becomes a record."""

    def __init__(self, stream: io.TextIOBase | Any) -> None:
        self._stream = stream
        self._printing = _Printing()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._stream.fileno()
        return number

    def write(self, text: str) -> int:
        printing = self._printing
        if printing.is_logging:
            # The log itself fails: its own report must not go through it.
            self._stream.write(text)
            return len(text)
        *lines, printing.text = (printing.text + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def flush(self) -> None:
        line, self._printing.text = self._printing.text, ""
        self._log(line)

    def _log(self, line: str) -> None:
        if not line.strip():
            return
        self._printing.is_logging = True
        try:
            logger.warning("%s", line.rstrip(), extra={"event": "printed"})
        finally:
            self._printing.is_logging = False


def log_stderr() -> None:
    """Log what this process prints to standard error, and uncaught exceptions."""
    sys.stderr = LogStream(sys.__stderr__)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(
    kind: type[BaseException], exc: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _uncaught.warning("Interrupted", extra={"event": "interrupted"})
        return
    _uncaught.critical(
        "The process ends by an exception",
        exc_info=(kind, exc, trace),
        extra={"event": "uncaught"},
    )


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    exc = args.exc_value or args.exc_type()
    _uncaught.error(
        "A thread ends by an exception",
        exc_info=(args.exc_type, exc, args.exc_traceback),
        extra={"event": "uncaught"},
    )


def _log_unraisable(args: Any) -> None:
    _uncaught.error(
        "%s: %r",
        args.err_msg or "An exception was ignored",
        args.object,
        exc_info=args.exc_value,
        extra={"event": "unraisable"},
    )
