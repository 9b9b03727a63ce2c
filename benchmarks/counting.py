"""
python -m benchmarks.counting: measure the cost of metrics as a share of a message.

The cost of a message is the CPU time of a live server for one echo. The cost of
metrics is that of one observation of a histogram, which each message causes.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.contenders import CONTENDERS
from benchmarks.measures import Size, measure_echo
from benchmarks.site import Site, make_site
from connections.metrics.counters import LATENCY_EDGES, Histogram

_OBSERVATIONS = 20_000
_ROUNDS = 9
_DURATIONS = (0.000_05, 0.004)
"""Durations below and above the first edge; the latter cost more."""

_ALLOWED_PERCENT = 2.0
_SIZE = Size(warm_up_seconds=0.5, echo_seconds=2, idle=1)


def main() -> int:
    """Measure the cost of counting; return 1 if it exceeds the allowed share."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.counting", description=main.__doc__
    ).parse_args()
    with make_site() as folder:
        site = Site(Path(folder))
        site.prepare()
        echoed = [
            measure_echo(CONTENDERS["orchestra-serve"], site, _SIZE)["echo_cpu_us"]
            for _ in range(3)
        ]
    message_us = statistics.median(echoed)
    print(f"CPU per message of a live server: {message_us:6.2f} us")
    percents = []
    for seconds in _DURATIONS:
        counting_us = statistics.median(_observe(seconds) for _ in range(_ROUNDS))
        percents.append(100 * counting_us / message_us)
        print(
            f"CPU per observation of {seconds * 1000:g} ms: {counting_us:.3f} us, "
            f"{percents[-1]:.2f} %"
        )
    print(f"allowed: {_ALLOWED_PERCENT:g} %")
    return int(max(percents) > _ALLOWED_PERCENT)


def _observe(seconds: float) -> float:
    """Return the CPU microseconds of one observation."""
    observe = Histogram(LATENCY_EDGES).observe
    began_at = time.process_time()
    for _ in range(_OBSERVATIONS):
        observe(seconds)
    return 1e6 * (time.process_time() - began_at) / _OBSERVATIONS


if __name__ == "__main__":
    sys.exit(main())
