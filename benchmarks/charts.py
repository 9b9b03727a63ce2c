"""
python -m benchmarks.charts: draw the recorded results of `python -m benchmarks`.

Each chart is an SVG file with one bar for each server.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT, Figure, summarise
from connections.units import count_of

RECORD = ROOT / "docs" / "evidence" / "benchmarks.json"
CHARTS = ROOT / "docs" / "_static"

_WIDTH, _BAR, _GAP, _HEAD, _NAMES = 720, 18, 8, 52, 190
_FIGURES = 190
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}"
    ".s{font-size:11px;fill:#57606a}.o{fill:#1f6feb}.p{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One value of one measure, for each server that was measured."""

    name: str
    title: str
    measure: str
    key: str


DRAWN = (
    Chart(
        name="echo",
        title="Round trips a second, 50 connections",
        measure="echo",
        key="echoes_per_second",
    ),
    Chart(
        name="echo-cpu",
        title="CPU of a round trip, µs (less is better)",
        measure="echo",
        key="echo_cpu_us",
    ),
    Chart(
        name="connects",
        title="Connects a second (Orchestra: with a token and a recorded row)",
        measure="connects",
        key="connects_per_second",
    ),
    Chart(
        name="broadcast-few",
        title="Group message to 100 members, deliveries a second",
        measure="broadcast",
        key="deliveries_few_per_second",
    ),
    Chart(
        name="broadcast-many",
        title="Group message to 1,000 members, deliveries a second",
        measure="broadcast",
        key="deliveries_many_per_second",
    ),
    Chart(
        name="memory",
        title="KiB of an idle connection (less is better)",
        measure="crowd",
        key="kib_per_connection",
    ),
)


def draw(chart: Chart, recorded: Mapping[str, Any]) -> str:
    """Return the SVG of a chart; empty if its measure was not recorded."""
    measured = recorded["rounds"].get(chart.measure, {})
    figures = {
        name: summarise([values[chart.key] for values in rounds])
        for name, rounds in measured.items()
    }
    if not figures:
        return ""
    most = max(figure.median for figure in figures.values()) or 1
    bars = [
        _draw_bar(number, name, figure, figure.median / most)
        for number, (name, figure) in enumerate(figures.items())
    ]
    height = _HEAD + len(bars) * (_BAR + _GAP)
    title = escape(chart.title)
    facts = escape(_describe(recorded, chart.measure, figures))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<text class="t" x="0" y="16">{title}</text>',
        f'<text class="s" x="0" y="34">{facts}</text>',
        *bars,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _draw_bar(number: int, name: str, figure: Figure, share: float) -> str:
    y = _HEAD + number * (_BAR + _GAP)
    width = share * (_WIDTH - _NAMES - _FIGURES)
    kind = "o" if name.startswith("orchestra") else "p"
    baseline = y + _BAR - 5
    return (
        f'<text x="0" y="{baseline}">{escape(name)}</text>'
        f'<rect class="{kind}" x="{_NAMES}" y="{y}" width="{width:.1f}" '
        f'height="{_BAR}"/>'
        f'<text x="{_NAMES + width + 6:.1f}" y="{baseline}">'
        f"{escape(str(figure))}</text>"
    )


def _describe(
    recorded: Mapping[str, Any], measure: str, figures: Mapping[str, Figure]
) -> str:
    """Return the facts of the run that its figures depend on."""
    # A measure that was recorded again has a machine of its own.
    machine = recorded.get("machines", {}).get(measure, recorded["machine"])
    rounds = max(figure.count for figure in figures.values())
    run = "Smoke test, no comparison: " if recorded["is_quick"] else ""
    return (
        f"{run}{count_of(rounds, 'round')}, median; {machine['cores']} cores, load "
        f"{machine['load_average']:.0f} at the end, {machine['processor']}, "
        f"Python {machine['python']}, revision {machine['revision']}"
    )


def write_charts(record: Path, folder: Path) -> list[Path]:
    """Draw what a file of results has; return the files."""
    recorded = json.loads(record.read_text())
    written = []
    for chart in DRAWN:
        if drawn := draw(chart, recorded):
            written.append(folder / f"benchmarks-{chart.name}.svg")
            written[-1].write_text(drawn)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the charts of a file of results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.charts",
        description="Draw the results that `python -m benchmarks --json` has written.",
    )
    parser.add_argument("--results", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("--folder", type=Path, default=CHARTS)
    options = parser.parse_args(arguments)
    for place in write_charts(options.results, options.folder):
        print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
