"""Test that an unreachable peer is recorded as dead."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from connections.testing.waiting import scale
from tests.project import ROOT

pytestmark = pytest.mark.slow

_ALONE = ("unshare", "--map-root-user", "--net")


def has_networks_of_its_own() -> bool:
    """Return True if a process may create a network namespace here."""
    if shutil.which("unshare") is None or shutil.which("tc") is None:
        return False
    return not subprocess.run([*_ALONE, "true"], capture_output=True).returncode


def test_a_peer_behind_a_black_hole_is_recorded_dead(
    tmp_path: Path, migrated_database: Path
) -> None:
    if not has_networks_of_its_own():
        pytest.skip("NOT RUN: a process may have no network of its own here")
    shutil.copy(migrated_database, tmp_path / "db.sqlite3")
    command = (*_ALONE, sys.executable, "-m", "tests.abuse.black_hole", str(tmp_path))
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(60),
        check=False,
    )
    assert done.stdout == "4201 dead\n", done.stderr
