"""Measure how slow this machine is."""

import subprocess
import sys
import time

_PROCESS_SECONDS = 0.12
_LOOP_SECONDS = 0.02
"""What the measured work took on a quiet machine of two cores (2026)."""

_LOOP_STEPS = 600_000
_MOST = 6.0


def measure_factor() -> float:
    """
    Return by what to multiply deadlines here, from 2 to 6.

    It takes the worse of two: the start of short processes, and a loop of Python,
    for one may be slow on a machine on which the other is not.
    """
    began_at = time.perf_counter()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import asyncio, json"], check=True)
    processes = (time.perf_counter() - began_at) / 3 / _PROCESS_SECONDS
    began_at = time.perf_counter()
    sum(number % 7 for number in range(_LOOP_STEPS))
    loop = (time.perf_counter() - began_at) / _LOOP_SECONDS
    # Twice: what the machine is at the start it need not be in the middle.
    return min(_MOST, max(2.0, 2 * max(processes, loop)))
