"""
Draw one trace through a browser's client, serve, a worker and back as a waterfall.

    python -m tests.waterfall

It starts Redis, a server and a worker, and draws the spans that they export over
OTLP into docs/_static/trace.svg. The client of the page is that of Python.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

import django

from tests.project import ROOT

PICTURE = ROOT / "docs" / "_static" / "trace.svg"

_WIDTH, _ROW, _BAR, _HEAD, _NAMES, _INDENT = 760, 26, 14, 34, 330, 14
_LONGEST_NAME = 40
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.s{font-size:11px;fill:#57606a}"
    ".browser{fill:#8250df}.serve{fill:#1f6feb}.worker{fill:#1a7f37}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}}"
)


class DrawnSpan(Protocol):
    """The part of a span that is drawn."""

    @property
    def service(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def span_id(self) -> str: ...
    @property
    def parent_id(self) -> str: ...
    @property
    def begin_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


def draw(spans: Sequence[DrawnSpan]) -> str:
    """Return the spans of one trace as SVG, a row for each, in order of their start."""
    began_ns = min(one.begin_ns for one in spans)
    whole_ns = max(one.end_ns for one in spans) - began_ns
    depths = find_depths({one.span_id: one.parent_id for one in spans})
    rows: list[str] = []
    for number, span in enumerate(sorted(spans, key=lambda one: one.begin_ns)):
        top = _HEAD + number * _ROW
        scale = (_WIDTH - _NAMES - 60) / whole_ns
        left = _NAMES + (span.begin_ns - began_ns) * scale
        width = max((span.end_ns - span.begin_ns) * scale, 2)
        rows += _draw_row(span, top, left, width, depths[span.span_id])
    height = _HEAD + len(spans) * _ROW + 6
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
            f'height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<style>{_STYLE}</style>",
            f'<text x="0" y="16" class="s">one trace, {whole_ns / 1e6:.0f} ms</text>',
            *rows,
            "</svg>\n",
        )
    )


def find_depths(parents: Mapping[str, str]) -> dict[str, int]:
    """Return how many of the other spans are above each."""

    def climb(span_id: str) -> Iterator[str]:
        while (span_id := parents[span_id]) in parents:
            yield span_id

    return {span_id: sum(1 for _ in climb(span_id)) for span_id in parents}


def _draw_row(
    span: DrawnSpan, top: int, left: float, width: float, depth: int
) -> Iterator[str]:
    name = f"{span.service}: {span.name}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 1]}…"
    base = top + _BAR - 2
    duration_ms = (span.end_ns - span.begin_ns) / 1e6
    yield f'<text x="{depth * _INDENT}" y="{base}">{escape(name)}</text>'
    yield (
        f'<rect class="{span.service}" x="{left:.1f}" y="{top}" width="{width:.1f}" '
        f'height="{_BAR}" rx="2"/>'
    )
    yield (
        f'<text class="s" x="{left + width + 4:.1f}" y="{base - 1}">'
        f"{duration_ms:.1f} ms</text>"
    )


async def record(folder: Path) -> None:
    """Draw a trace of processes that keep their files in a folder."""
    from tests.integration.redis_process import RedisProcess
    from tests.integration.traced.conversation import (
        CONFIG,
        ask_once,
        make_environment,
        run_worker,
    )
    from tests.integration.traced.receiver import receive_spans
    from tests.project import make_server

    redis = RedisProcess().start()
    try:
        with receive_spans() as receiver:
            server = make_server(
                folder, config=CONFIG, environment=make_environment(receiver, redis)
            )
            server.manage("migrate")
            server.start()
            try:
                async with run_worker(server, folder):
                    spans = await ask_once(server, receiver)
            finally:
                server.stop()
    finally:
        redis.remove()
    PICTURE.write_text(draw(spans), encoding="utf-8")


def main() -> None:
    """Draw the picture on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.waterfall", description=f"Write {PICTURE.name}."
    )
    parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    django.setup()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(record(Path(folder)))


if __name__ == "__main__":
    main()
