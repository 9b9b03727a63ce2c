"""The series over the range: connections, messages, opened and ended, latency."""

from collections.abc import Mapping, Sequence
from typing import Any

from connections.dashboard.charts.scales import format_count
from connections.dashboard.charts.trend import Series, draw_trend
from connections.dashboard.statistics import Statistics


def describe_trends(
    statistics: Statistics, range_name: str, width: int
) -> dict[str, Any]:
    """
    Return four charts with axes and legends.

    Counts leave out the step under way, which would look like a fall.
    """
    minutes = statistics.step_minutes
    refused = [sum(step) for step in zip(*statistics.refused.values(), strict=True)]
    whole = statistics.times[:-1]

    def per(values: Sequence[float], seconds: float) -> list[float]:
        return [value / (minutes * 60 / seconds) for value in values[: len(whole)]]

    charts: list[tuple[str, Sequence[Any], Mapping[str, Sequence[float]]]] = [
        (
            "Open connections",
            statistics.times,
            {"open": statistics.open_connections},
        ),
        (
            "Messages per second",
            whole,
            {
                "from clients": per(statistics.messages_in, 1),
                "to clients": per(statistics.messages_out, 1),
            },
        ),
        (
            "Opened, ended and refused per minute",
            whole,
            {
                "opened": per(statistics.opened, 60),
                "ended": per(statistics.ended, 60),
                "refused": per(refused or [0] * len(whole), 60),
            },
        ),
        (
            "Latency in milliseconds",
            whole,
            {
                "handling a message, mean": statistics.handling_ms[: len(whole)],
                "event loop, largest lag": statistics.lag_ms[: len(whole)],
            },
        ),
    ]
    return {
        "trends": [
            _draw(title, times, lines, range_name, width)
            for title, times, lines in charts
        ]
    }


def _draw(
    title: str,
    times: Sequence[Any],
    lines: Mapping[str, Sequence[float]],
    range_name: str,
    width: int,
) -> dict[str, Any]:
    """Return one chart with the last and the largest value of each line."""
    series = [
        Series(name=name, kind=f"k{index}", values=values, is_filled=not index)
        for index, (name, values) in enumerate(lines.items())
    ]
    legend = [
        {
            "kind": one.kind,
            "name": one.name,
            "last": format_count(one.values[-1]),
            "most": format_count(max(one.values)),
        }
        for one in series
    ]
    read = "; ".join(f"{one['name']} at most {one['most']}" for one in legend)
    label = f"{title} over {range_name}: {read}"
    chart = draw_trend(series, times, label=label, width=width, height=180)
    return {"title": title, "chart": chart, "legend": legend}
