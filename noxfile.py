"""Run the quick tests on every supported pair of Python and Django."""

import os
import shutil
import subprocess
from pathlib import Path

import nox

# An interpreter of pyenv that is not active is found too; its shim would fail.
_PYENV = sorted(Path.home().glob(".pyenv/versions/3.*/bin"))
os.environ["PATH"] = os.pathsep.join([*map(str, _PYENV), os.environ["PATH"]])


def _find_with_uv(version: str) -> bool:
    """Return whether uv knows an interpreter that is here, without a download."""
    if not shutil.which("uv"):
        return False
    command = ["uv", "python", "find", "--no-python-downloads", version]
    return subprocess.run(command, capture_output=True).returncode == 0


nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["quick"]

CELLS = [
    *((python, "requirements.txt") for python in ("3.11", "3.12", "3.13")),
    *((python, "requirements/django60.txt") for python in ("3.12", "3.13")),
    *((python, "requirements/django61.txt") for python in ("3.12", "3.13")),
    ("3.11", "requirements/oldest.txt"),
]
"""Django 5.2, 6.0 and 6.1, and the oldest allowed release of each requirement."""
if shutil.which("python3.14") or _find_with_uv("3.14"):
    CELLS += [("3.14", f"requirements/django{version}.txt") for version in (60, 61)]


@nox.session
@nox.parametrize(("python", "requirements"), CELLS)
def quick(session: nox.Session, requirements: str) -> None:
    """Run the quick tests with the pins of one file."""
    session.install("--no-deps", "-r", requirements)
    session.run("python", "-m", "pytest", "-q", "-m", "quick", *session.posargs)
