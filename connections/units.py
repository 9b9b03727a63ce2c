"""Parse and format sizes and moments; define the type of clocks."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from django.conf import settings
from django.utils import timezone

Clock = Callable[[], float]
"""A monotonic clock: seconds from an arbitrary start, never going back."""


def utc_now() -> datetime:
    """Return the current moment, aware and in UTC, whatever USE_TZ says."""
    return datetime.fromtimestamp(time.time(), UTC)


def as_utc(moment: datetime) -> datetime:
    """Return a moment in UTC; a naive one, of USE_TZ=False, is in TIME_ZONE."""
    if moment.tzinfo is UTC:
        return moment
    if timezone.is_naive(moment):
        moment = moment.replace(tzinfo=timezone.get_default_timezone())
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        # The first or last hours that datetime can express.
        return moment.replace(tzinfo=UTC)


def as_stored(moment: datetime) -> datetime:
    """Return a moment as columns hold it: aware, or of TIME_ZONE with USE_TZ=False."""
    if not settings.USE_TZ:
        moment = as_utc(moment)
        return timezone.make_naive(moment, timezone.get_default_timezone())
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


def format_moment(moment: datetime | None) -> str | None:
    """Return a moment as messages carry it: ISO 8601, milliseconds, UTC."""
    if moment is None:
        return None
    text = as_utc(moment).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def from_timestamp(seconds: float) -> datetime:
    """Return the moment of a Unix time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def show_moment(moment: datetime | None) -> str:
    """Return a moment as pages show it: 24 hours, seconds, the zone named."""
    if moment is None:
        return "\N{EN DASH}"
    return f"{as_utc(moment):%Y-%m-%d %H:%M:%S} UTC"


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun: 1 node, 2 nodes."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def measure_text(text: str) -> int:
    """Return an upper bound of a text's bytes, in memory or as UTF-8."""
    return len(text) if text.isascii() else 4 * len(text)


def parse_size(text: str | int) -> int:
    """
    Return the number of bytes of a size such as 1MB, 64KiB or 4096.

    kB, MB and GB are decimal (1MB is 1 000 000 bytes), KiB, MiB and GiB
    binary, as in IEC 80000-13. Case does not matter.

    Raises:
        ValueError: the text is not a size.
    """
    if isinstance(text, bool):
        raise ValueError("a size is a number of bytes, not a boolean")
    if isinstance(text, int):
        if text < 0:
            raise ValueError("a size cannot be negative")
        return text
    found = _SIZE.fullmatch(text)
    factor = _SIZE_UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not a size such as 1MB, 64KiB or 4096")
    amount = float(found[1]) * factor
    if amount != int(amount):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(amount)


def format_size(size_bytes: int) -> str:
    """Return a size in the largest decimal or binary unit that divides it."""
    for name, factor in (
        ("GB", 1000**3),
        ("GiB", 1024**3),
        ("MB", 1000**2),
        ("MiB", 1024**2),
        ("kB", 1000),
        ("KiB", 1024),
    ):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{name}"
    return str(size_bytes)
