"""
Log the first error of each place with its traceback, and count the others.

An error that happens a hundred times a second would otherwise fill the disk. The
filter belongs to the loggers of this library, so it works with every LOGGING.
"""

import atexit
import logging
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import PurePath

REPORT_SECONDS = 60
"""The interval of the lines with counts."""

QUIET_SECONDS = 3600
"""A place without an error for so long gets a traceback again."""

MOST_PLACES = 200
MOST_TRACEBACKS = 50
"""The most tracebacks of all places within REPORT_SECONDS."""

_MOST_CHARACTERS = 200
_ELSEWHERE = "other places"


def call_later(seconds: float, call: Callable[[], None]) -> bool:
    """Call a function later unless the process ends; False if no thread starts."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:
        # The system has no more threads, or Python ends (3.12) and reports at its exit.
        return False
    return True


@dataclass(slots=True)
class _Place:
    """One place of errors, and those not reported yet."""

    logger: str
    level: int
    about: str
    last_at: float
    count: int = 0


@dataclass(slots=True)
class _Places:
    """The places known, the one with the oldest error first."""

    known: OrderedDict[Hashable, _Place] = field(default_factory=OrderedDict)
    tracebacks: int = 0
    is_scheduled: bool = False


class ErrorFilter(logging.Filter):
    """
    Passes the first error of each place, and logs the counts of others by the minute.

    A place is the innermost line of a traceback, with the logger, the message and the
    class of the exception. The record that passes names class, text and place in its
    message; a record may have its own `exception` and `place`. Records without a
    traceback pass as they are. Thread-safe.
    """

    def __init__(
        self,
        name: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], bool] = call_later,
    ) -> None:
        super().__init__(name)
        self._clock = clock
        self._call_later = call_later
        self._lock = threading.Lock()
        self._places = _Places()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info or record.exc_info[1] is None:
            return True
        if hasattr(record, "error_place"):
            return True  # The filter of its logger has passed it.
        exc = record.exc_info[1]
        place = getattr(record, "place", "") or find_place(exc)
        about = f"{getattr(record, 'exception', '') or _describe(exc)} ({place})"
        # Another object may have no hash, or would be kept: an exception with frames.
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        if not self._admit((record.name, text, type(exc), place), record, about):
            return False
        try:
            message = record.getMessage()
        except Exception:
            message = text  # A wrong format, or an exception whose __str__ fails.
        # Most messages end in the text of the exception.
        message = message.removesuffix(_get_text(about, place))
        record.error_place = place
        record.msg, record.args = "%s: %s", (message.rstrip(": "), about)
        return True

    def forget(self) -> None:
        """Forget all places and counts."""
        with self._lock:
            self._places = _Places(is_scheduled=self._places.is_scheduled)

    def report(self) -> None:
        """Log how many errors of each place were held back, and begin anew."""
        with self._lock:
            self._places.is_scheduled = False
            self._places.tracebacks = 0
            held_back = [one for one in self._places.known.values() if one.count]
            counts = [(one, one.count) for one in held_back]
            for one in held_back:
                one.count = 0
        for one, count in counts:
            _log_count(one, count)

    def _admit(self, key: Hashable, record: logging.LogRecord, about: str) -> bool:
        """Count an error; return True if it is the first one of its place."""
        now = self._clock()
        evicted = None
        with self._lock:
            places = self._places
            if places.tracebacks >= MOST_TRACEBACKS and key not in places.known:
                key, about = _ELSEWHERE, _ELSEWHERE
            known = places.known.pop(key, None)
            is_first = known is None or now - known.last_at >= QUIET_SECONDS
            is_first = is_first and key != _ELSEWHERE
            if known is None:
                known = _Place(record.name, record.levelno, about, now)
            known.last_at = now
            places.known[key] = known
            if is_first:
                places.tracebacks += 1
            else:
                known.count += 1
            if len(places.known) > MOST_PLACES:
                _, evicted = places.known.popitem(last=False)
            is_due, places.is_scheduled = not places.is_scheduled, True
        if is_due and not self._call_later(REPORT_SECONDS, self.report):
            with self._lock:
                self._places.is_scheduled = False
        if evicted is not None and evicted.count:
            _log_count(evicted, evicted.count)
        return is_first


def _log_count(place: _Place, count: int) -> None:
    logging.getLogger(place.logger).log(
        place.level,
        "%s more errors within %s s, without their tracebacks: %s",
        count,
        REPORT_SECONDS,
        place.about,
        extra={"event": "errors_repeated", "count": count},
    )


def find_place(exc: BaseException) -> str:
    """Return the line that raised an exception, as `chat/views.py:12 in show`."""
    frames = list(traceback.walk_tb(exc.__traceback__))
    if not frames:
        return "no traceback"
    frame, line = frames[-1]
    path = "/".join(PurePath(frame.f_code.co_filename).parts[-2:])
    return f"{path}:{line} in {frame.f_code.co_name}"


def _describe(exc: BaseException) -> str:
    """Return the class and the text of an exception, as a traceback ends."""
    lines = traceback.format_exception_only(exc)
    first = next((line for line in lines if not line.startswith(" ")), "")
    text = first.strip().partition("\n")[0]
    is_long = len(text) > _MOST_CHARACTERS
    return text[:_MOST_CHARACTERS] + ("…" if is_long else "")


def _get_text(about: str, place: str) -> str:
    return about.removesuffix(f" ({place})").partition(": ")[2]


error_filter = ErrorFilter()
"""The filter of all loggers of this library."""

atexit.register(error_filter.report)


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose errors are logged once for each place, then counted."""
    logger = logging.getLogger(name)
    logger.addFilter(error_filter)
    return logger
