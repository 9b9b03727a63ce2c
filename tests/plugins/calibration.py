"""Measure at the start of a run how slow this machine is, and scale all deadlines."""

import os
import subprocess
import sys
import time

import pytest

from connections.testing.waiting import PATIENCE

_REFERENCE_SECONDS = 0.12
"""What the measured work took on a quiet machine of two cores (2026)."""

_MOST = 6.0


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist and servers inherit what the first process measured.
    if PATIENCE not in os.environ:
        os.environ[PATIENCE] = f"{measure_factor():.1f}"


def pytest_report_header() -> str:
    return f"deadlines: {os.environ[PATIENCE]} times as long as on the reference"


def measure_factor() -> float:
    """Return how much longer a few short processes take here, from 1 to 6."""
    began_at = time.perf_counter()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import asyncio, json"], check=True)
    seconds = (time.perf_counter() - began_at) / 3
    # Twice: what the machine is at the start it need not be in the middle.
    return min(_MOST, max(2.0, 2 * seconds / _REFERENCE_SECONDS))
