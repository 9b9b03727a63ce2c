"""Measure at the start of a run how slow this machine is, and scale all deadlines."""

import os

import pytest

from connections.testing.waiting import PATIENCE, scale
from tests.machine import measure_factor

# Workers of pytest-xdist and servers inherit what the first process measured. It is
# measured before pytest imports the conftest.py of a folder that the command line
# names, whose modules scale their constants: pytest_configure() comes after them.
if PATIENCE not in os.environ:
    os.environ[PATIENCE] = f"{measure_factor():.1f}"


def pytest_report_header() -> str:
    return f"deadlines: {os.environ[PATIENCE]} times as long as on the reference"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Scale the timeouts of tests, but for one of the command line."""
    default = None
    if config.getoption("timeout") is None:
        default = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = default if marker is None else marker.args[0]
        if seconds is not None:
            item.add_marker(pytest.mark.timeout(scale(seconds)), append=False)
