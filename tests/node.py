"""Node, which runs the modules of the browser client."""

import os
import shutil

import pytest


def find_node() -> str:
    """Return the path of node; without it skip the test, or fail in CI."""
    found = shutil.which("node")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("node is missing")
        pytest.skip("node is missing")
    return found
