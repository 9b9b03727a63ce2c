"""Draw lines over time, each with its own colour and dash pattern."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.safestring import SafeString

from connections.dashboard.charts.scales import (
    format_count,
    make_ticks,
    make_time_ticks,
)
from connections.dashboard.charts.svg import element, image, number, text, title
from connections.units import show_moment

_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 26
_MOST_TARGETS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: its name, its CSS class and a value for each moment."""

    name: str
    kind: str
    values: Sequence[float]
    is_filled: bool = False


def draw_trend(
    series: Sequence[Series],
    times: Sequence[datetime],
    *,
    label: str,
    width: int = 560,
    height: int = 200,
) -> SafeString:
    """Return the series over their common moments; the first is drawn on top."""
    if len(times) < 2:
        raise ValueError("a trend needs two moments")
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    highest = max((max(one.values) for one in series), default=0)
    ticks = make_ticks(highest)
    start, end = times[0], times[-1]
    span_seconds = (end - start).total_seconds()
    xs = [
        _LEFT + inner_width * (moment - start).total_seconds() / span_seconds
        for moment in times
    ]
    lines = []
    for one in reversed(series):
        ys = [_TOP + inner_height * (1 - value / ticks[-1]) for value in one.values]
        lines.append(_draw_line(one, xs, ys, _TOP + inner_height))
    return image(
        _draw_grid(ticks, width, inner_height),
        _draw_times(start, end, inner_width, height),
        *lines,
        _draw_targets(series, times, xs, inner_height),
        width=width,
        height=height,
        label=label,
        class_="chart trend",
    )


def _draw_line(
    series: Series, xs: Sequence[float], ys: Sequence[float], floor: float
) -> SafeString:
    points = "L".join(f"{number(x)} {number(y)}" for x, y in zip(xs, ys, strict=True))
    parts = []
    if series.is_filled:
        area = f"M{number(xs[0])} {number(floor)}L{points}V{number(floor)}Z"
        parts.append(element("path", d=area, class_="area"))
    parts.append(element("path", d=f"M{points}", class_="line"))
    return element("g", *parts, class_=series.kind)


def _draw_grid(ticks: Sequence[float], width: int, inner_height: float) -> SafeString:
    parts = []
    for tick in ticks:
        y = _TOP + inner_height * (1 - tick / ticks[-1])
        parts.append(element("path", d=f"M{_LEFT} {number(y)}H{width - _RIGHT}"))
        parts.append(text(format_count(tick), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    return element("g", *parts, class_="grid")


def _draw_times(
    start: datetime, end: datetime, inner_width: float, height: int
) -> SafeString:
    span_seconds = (end - start).total_seconds()
    parts = []
    for moment, label in make_time_ticks(
        start, end, most=max(2, int(inner_width / 80))
    ):
        x = _LEFT + inner_width * (moment - start).total_seconds() / span_seconds
        parts.append(text(label, x=x, y=height - 8, text_anchor="middle"))
    return element("g", *parts, class_="axis")


def _draw_targets(
    series: Sequence[Series],
    times: Sequence[datetime],
    xs: Sequence[float],
    inner_height: float,
) -> SafeString:
    """Return invisible areas whose tooltips show the values of a time."""
    step = (xs[-1] - xs[0]) / (len(xs) - 1)
    every = -(-len(xs) // _MOST_TARGETS)
    parts = []
    for index in range(0, len(times), every):
        read = ", ".join(
            f"{one.name} {format_count(one.values[index])}" for one in series
        )
        parts.append(
            element(
                "rect",
                title(f"{show_moment(times[index])}: {read}"),
                x=xs[index] - step * every / 2,
                y=_TOP,
                width=step * every,
                height=inner_height,
                class_="target",
            )
        )
    return element("g", *parts)
