"""Figures with their spread, as a table for people and as JSON for programs."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of repeated measurements, and the least and the greatest."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count == 1:
            return _shorten(self.median)
        spread = f"{_shorten(self.low)}-{_shorten(self.high)}"
        return f"{_shorten(self.median)} ({spread})"


def summarise(values: Sequence[float]) -> Figure:
    """Return the figure that repeated measurements make."""
    return Figure(statistics.median(values), min(values), max(values), len(values))


def compare(values: Sequence[float], reference: Sequence[float]) -> Figure:
    """Return the ratios to a reference that was measured in the same rounds."""
    return summarise(
        [one / other for one, other in zip(values, reference, strict=True) if other]
    )


def make_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table whose columns line up."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    texts = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    texts.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(texts)


def describe_machine() -> dict[str, Any]:
    """Return what a reader has to know to compare figures."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = ("django", "channels", "daphne", "twisted", "uvicorn", "websockets")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "revision": revision.stdout.strip(),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write results to a file, with the machine they come from."""
    text = json.dumps({"machine": describe_machine(), **content}, indent=2)
    path.write_text(text + "\n")


def _shorten(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
