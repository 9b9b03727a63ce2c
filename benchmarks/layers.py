"""
python -m benchmarks.layers: attribute the CPU time of one message to layers.

The server's stack is sampled after each millisecond of its CPU time while fifty
connections echo. A layer's share of the samples is its share of the CPU time of a
message. A system call counts for the layer that makes it.
"""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.measures import read_observed
from benchmarks.report import describe_machine, make_table, write_json
from benchmarks.site import Site, make_site
from connections.capacity.load.generator import Load

_MEASURED = ("channels-daphne", "orchestra-serve", "orchestra-uvicorn")
_IN_FLIGHT = 50
_WARM_UP_SECONDS = 0.7

_OTHER = "other"
_PACKAGES = {
    "system calls, event loop": (
        *("asyncio", "selectors", "contextvars", "connections.server.transport"),
    ),
    "Twisted, Autobahn, daphne": (
        *("twisted", "autobahn", "daphne", "txaio", "zope", "incremental"),
    ),
    "uvicorn, websockets": ("uvicorn", "websockets"),
    "frames, queue, buffers (server/)": ("connections.server",),
    "threads for each message": ("concurrent", "threading", "asgiref", "queue"),
    "limits, error boundary, consumer": (
        *("connections", "channels", "orchestra", "benchmarks", "django"),
    ),
}
"""Packages by layer; the first layer with a prefix of a name owns it."""

LAYERS = (*_PACKAGES, _OTHER)


def find_layer(name: str) -> str:
    """Return the layer of a package or module."""
    for layer, prefixes in _PACKAGES.items():
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes):
            return layer
    return _OTHER


def share(samples: Mapping[str, int], us: float) -> dict[str, float]:
    """Divide the microseconds of a message among the layers."""
    counts = Counter[str]()
    for name, count in samples.items():
        counts[find_layer(name)] += count
    total = max(1, counts.total())
    return {layer: us * counts[layer] / total for layer in LAYERS}


def measure(contender: Contender, site: Site, seconds: float) -> dict[str, float]:
    """Return the microseconds of each layer for one echo."""
    place = site.folder / f"{contender.name}.observed"
    variables = {"BENCHMARKS_OBSERVED": str(place), "BENCHMARKS_LAYERS": "1"}
    with (
        contender.start(site, **variables) as server,
        Load(server.port, dialect=contender.dialect, path=contender.path) as load,
    ):
        headers = contender.get_headers(site)
        load.do("open", group="echo", count=_IN_FLIGHT, headers=headers)
        load.do("echo", group="echo", seconds=_WARM_UP_SECONDS)
        # First the cost without sampling, then the shares with it.
        before = server.cpu_seconds()
        done = load.do("echo", group="echo", seconds=seconds)
        us = (server.cpu_seconds() - before) / max(1, done["round_trips"]) * 1e6
        server.signal(signal.SIGUSR1)
        load.do("echo", group="echo", seconds=seconds)
        return share(read_observed(server, place)["layers"], us)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each contender and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description="Measure the CPU time of a message by layer.",
    )
    parser.add_argument(
        "--seconds", type=float, default=4, help="duration of echoes for each server"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("contenders", nargs="*", metavar="NAME", default=_MEASURED)
    options = parser.parse_args(arguments)
    for name in options.contenders:
        if name not in CONTENDERS:
            parser.error(f"no contender {name!r}; there are {', '.join(CONTENDERS)}")
    found = {}
    with make_site() as folder:
        site = Site(Path(folder))
        site.prepare()
        for name in options.contenders:
            found[name] = measure(CONTENDERS[name], site, options.seconds)
    rows = [
        [layer, *(f"{layers[layer]:.1f}" for layers in found.values())]
        for layer in LAYERS
    ]
    rows.append(["total", *(f"{sum(one.values()):.1f}" for one in found.values())])
    print(make_table(("us per message", *found), rows))
    machine = describe_machine()
    print(f"load {machine['load_average']:.1f}, {machine['processor']}")
    if options.json:
        write_json(options.json, {"machine": machine, "us_per_message": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
