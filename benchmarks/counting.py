"""
python -m benchmarks.counting: measure the cost of metrics and traces of a message.

The cost of a message is the CPU time of a live server for one echo. The cost of
metrics is that of one observation of a histogram, which each message causes. That of
traces is, while they are off, the calls of Python functions that they add, and while
they are on, the CPU time of a span that is exported in batches to nowhere.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import django

from benchmarks.contenders import CONTENDERS
from benchmarks.measures import measure_echo
from benchmarks.report import describe_machine, write_json
from benchmarks.site import Site, make_site
from benchmarks.sizes import Size
from connections.metrics.counters import LATENCY_EDGES, Histogram

_OBSERVATIONS = 20_000
_ECHOES = 5_000
_ROUNDS = 9
_DURATIONS = (0.000_05, 0.004)
"""Durations below and above the first edge; the latter cost more."""

_ALLOWED_PERCENT = 2.0
_SIZE = Size(warm_up_seconds=0.5, echo_seconds=2, idle=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cost of counting; return 1 if it exceeds the allowed share."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counting", description=main.__doc__
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(arguments)
    with make_site() as folder:
        site = Site(Path(folder))
        site.prepare()
        echoed = [
            measure_echo(CONTENDERS["orchestra-serve"], site, _SIZE)["echo_cpu_us"]
            for _ in range(3)
        ]
    message_us = statistics.median(echoed)
    print(f"CPU per message of a live server: {message_us:6.2f} us")
    figures = {"message_cpu_us": message_us}
    percents = []
    for seconds in _DURATIONS:
        counting_us = statistics.median(_observe(seconds) for _ in range(_ROUNDS))
        percents.append(100 * counting_us / message_us)
        figures[f"observation_of_{seconds * 1000:g}_ms_cpu_us"] = counting_us
        print(
            f"CPU per observation of {seconds * 1000:g} ms: {counting_us:.3f} us, "
            f"{percents[-1]:.2f} %"
        )
    print(f"allowed: {_ALLOWED_PERCENT:g} %")
    figures |= _measure_traces(message_us)
    if options.json:
        write_json(options.json, {"machine": describe_machine(), "figures": figures})
    calls = figures["trace_calls_while_off"]
    return int(max(percents) > _ALLOWED_PERCENT or calls > 0)


def _measure_traces(message_us: float) -> dict[str, float]:
    """Print and return the calls of traces while off, and their cost while on."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    django.setup()
    from benchmarks.traced import measure_echo_cost, use_dropping_provider

    off = measure_echo_cost(_ECHOES)
    with use_dropping_provider():
        on = measure_echo_cost(_ECHOES)
    added_us = on.cpu_us - off.cpu_us
    print(f"Calls of traces per message while off: {off.telemetry_calls:g}, allowed: 0")
    print(
        f"CPU of a span per message: {added_us:.1f} us, "
        f"{100 * added_us / message_us:.0f} %; calls: {on.calls - off.calls:.0f}"
    )
    return {
        "trace_calls_while_off": off.telemetry_calls,
        "trace_cpu_us_while_on": added_us,
        "trace_calls_while_on": on.calls - off.calls,
    }


def _observe(seconds: float) -> float:
    """Return the CPU microseconds of one observation."""
    observe = Histogram(LATENCY_EDGES).observe
    began_at = time.process_time()
    for _ in range(_OBSERVATIONS):
        observe(seconds)
    return 1e6 * (time.process_time() - began_at) / _OBSERVATIONS


if __name__ == "__main__":
    sys.exit(main())
