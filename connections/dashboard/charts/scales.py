"""Choose round ticks of axes, and format numbers for display."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

NOTHING = "\N{EN DASH}"
"""The text for a missing value."""

_STEPS = (1, 2, 5, 10)
_TIME_STEPS = tuple(
    timedelta(minutes=minutes)
    for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880)
)


def make_ticks(maximum: float, count: int = 4) -> list[float]:
    """Return round numbers from 0 to the first at or above the maximum."""
    if not maximum > 0 or not math.isfinite(maximum):
        return [0, 1]
    raw = maximum / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(one * magnitude for one in _STEPS if one * magnitude >= raw * 0.999)
    ticks = [0.0]
    while ticks[-1] < maximum * 0.9999:
        ticks.append(round(ticks[-1] + step, 10))
    return ticks


def make_time_ticks(
    start: datetime, end: datetime, most: int = 6
) -> list[tuple[datetime, str]]:
    """Return at most `most` round times between two, with their labels."""
    span = end - start
    step = next((one for one in _TIME_STEPS if span / one <= most), _TIME_STEPS[-1])
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = midnight + math.ceil((start - midnight) / step) * step
    form = "%d %b" if step >= timedelta(days=1) else "%H:%M"
    ticks = []
    while moment <= end:
        ticks.append((moment, moment.strftime(form)))
        moment += step
    return ticks


def format_count(value: float) -> str:
    """Return a count in at most four characters or so: 950, 1.2k, 34k, 5.6M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            scaled = value / factor
            digits = 1 if scaled < 9.95 else 0
            return f"{scaled:.{digits}f}".removesuffix(".0") + unit
    digits = 0 if value == int(value) or value >= 100 else 1 if value >= 1 else 2
    return f"{value:.{digits}f}"


def format_bytes(value: float) -> str:
    """Return a number of bytes: 512 B, 1.2 kB, 34 MB."""
    if value < 1000:
        return f"{value:.0f} B"
    shown = format_count(value)
    return f"{shown[:-1]} {shown[-1]}B"


def format_seconds(seconds: float) -> str:
    """Return a duration in its two largest units: 450 ms, 12 s, 3 min 20 s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    rest = round(seconds)
    for index, (name, size) in enumerate(units):
        if rest >= size:
            count, rest = divmod(rest, size)
            if index + 1 < len(units):
                next_name, next_size = units[index + 1]
                if second := rest // next_size:
                    return f"{count} {name} {second} {next_name}"
            return f"{count} {name}"
    return "0 s"


def split_seconds(seconds: float) -> tuple[str, str]:
    """Return a duration as one number and its unit: 3.7 min is ("3.7", "min")."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return format_count(round(seconds / size, 1)), unit
    return format_count(round(seconds, 1)), "s"


def scale(values: Sequence[float], maximum: float, height: float) -> list[float]:
    """Return each value's distance from the top of a chart."""
    return [
        height - height * value / maximum if maximum else height for value in values
    ]
