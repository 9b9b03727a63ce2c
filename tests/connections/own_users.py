"""Run a program in a project with a user model of its own."""

import subprocess
import sys
from pathlib import Path

from connections.testing.waiting import scale
from tests.project import ROOT


def run_with_user_model(folder: Path, models: str, program: str) -> str:
    """Return what a program prints that has the app `people` with some models."""
    app = folder / "people"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(models)
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]"
    done = subprocess.run(
        [sys.executable, "-c", paths + program],
        capture_output=True,
        text=True,
        timeout=scale(30),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
