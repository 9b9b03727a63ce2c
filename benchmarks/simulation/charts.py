"""Draw what the simulation has recorded: a line for each pool, second by second."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

RECORD = ROOT / "docs" / "evidence" / "simulation.json"
CHARTS = ROOT / "docs" / "_static"
DRAWN = {
    "cold-start": "A cold start",
    "region-failover": "Half of the nodes are lost",
    "deploy": "A deploy",
    "pool-full": "5 % more clients than slots",
}
"""The scenarios that have a chart, and its title."""

_PANELS = (
    ("accepted", "connects a second"),
    ("rows", "rows a second"),
    ("redis_cpu", "cores of Redis, the busiest shard"),
    ("postgres_cpu", "cores of PostgreSQL"),
)
_WIDTH, _PANEL, _GAP, _HEAD, _LEFT = 720, 96, 38, 60, 64
_POINTS = 240
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}"
    ".s{font-size:11px;fill:#57606a}.a{stroke:#8c959f;stroke-width:1}"
    "polyline{fill:none;stroke-width:1.5}.redis{stroke:#1f6feb}"
    ".postgres{stroke:#bc4c00}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}"
    ".redis{stroke:#58a6ff}.postgres{stroke:#f0883e}}"
)


def write_record(content: Mapping[str, Any]) -> None:
    """Write results with the series that are drawn, each on a line."""
    drawn = [name for name, _ in _PANELS]
    results = [
        json.dumps({**one, "series": {name: one["series"][name] for name in drawn}})
        for one in content["results"]
    ]
    head = json.dumps({**content, "results": []})
    RECORD.write_text(head.removesuffix("]}") + "\n" + ",\n".join(results) + "\n]}\n")


def write_charts(record: Path, folder: Path) -> list[Path]:
    """Draw the recorded scenarios; return the files."""
    recorded = json.loads(record.read_text())
    written = []
    for scenario in DRAWN:
        if drawn := draw(scenario, recorded):
            written.append(folder / f"simulation-{scenario}.svg")
            written[-1].write_text(drawn)
    return written


def draw(scenario: str, recorded: Mapping[str, Any]) -> str:
    """Return the SVG of a scenario; empty if it was not recorded."""
    series = {
        one["pool"]: one["series"]
        for one in recorded["results"]
        if one["scenario"] == scenario
    }
    if not series:
        return ""
    assumed = recorded["assumptions"]
    title = (
        f"{DRAWN[scenario]}: {assumed['nodes']:,} nodes, "
        f"{assumed['connections']:,} clients"
    )
    about = (
        f"Simulated with costs measured on {recorded['measured_on']}, "
        f"{recorded['machine']['processor']}; seed {recorded['seed']}; "
        "blue: pool in Redis, orange: in PostgreSQL"
    )
    panels = [
        _draw_panel(number, name, text, series)
        for number, (name, text) in enumerate(_PANELS)
    ]
    height = _HEAD + len(panels) * (_PANEL + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="t" x="0" y="16">{escape(title)}</text>',
        f'<text class="s" x="0" y="34">{escape(about)}</text>',
        *panels,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _draw_panel(
    number: int,
    name: str,
    text: str,
    series: Mapping[str, Mapping[str, Sequence[float]]],
) -> str:
    top = _HEAD + number * (_PANEL + _GAP)
    bottom = top + _PANEL
    most = max(max(one[name]) for one in series.values()) or 1
    seconds = max(len(one[name]) for one in series.values())
    lines = [
        f'<text x="{_LEFT}" y="{top - 6}">{escape(text)}</text>',
        f'<line class="a" x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH}" y2="{bottom}"/>',
        f'<text class="s" x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">'
        f"{_shorten(most)}</text>",
        f'<text class="s" x="{_LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text class="s" x="{_WIDTH}" y="{bottom + 14}" text-anchor="end">'
        f"{seconds} s</text>",
    ]
    for pool, one in series.items():
        values = one[name]
        points = " ".join(
            f"{_LEFT + at / seconds * (_WIDTH - _LEFT):.1f},"
            f"{bottom - value / most * _PANEL:.1f}"
            for at, value in _thin(values)
        )
        lines.append(f'<polyline class="{pool}" points="{points}"/>')
    return "\n".join(lines)


def _thin(values: Sequence[float]) -> list[tuple[int, float]]:
    """Return at most so many points: the highest value of each part."""
    size = -(-len(values) // _POINTS)
    return [
        (start, max(values[start : start + size]))
        for start in range(0, len(values), size)
    ]


def _shorten(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
