"""Format figures with their spread as Markdown tables and JSON."""

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
    """Median, minimum and maximum of repeated measurements."""

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
    """Return the figure of repeated measurements."""
    return Figure(statistics.median(values), min(values), max(values), len(values))


def compare(values: Sequence[float], reference: Sequence[float]) -> Figure:
    """Return the ratio to a reference measured in the same rounds."""
    return summarise(
        [one / other for one, other in zip(values, reference, strict=True) if other]
    )


def make_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    texts = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    texts.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(texts)


def describe_machine() -> dict[str, Any]:
    """Return the facts of the machine that figures depend on."""
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
    """Write results and a description of the machine to a file."""
    text = json.dumps({"machine": describe_machine(), **content}, indent=2)
    path.write_text(text + "\n")


def _shorten(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
