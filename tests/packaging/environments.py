"""Virtual environments with a built wheel, made without a package index."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from connections.testing.waiting import scale


def run_python(
    *arguments: str,
    python: Path | str = sys.executable,
    folder: Path | None = None,
    seconds: float = 60,
    text: str = "",
) -> str:
    """Run Python without this checkout on its path; return its output."""
    done = subprocess.run(
        # Without -P the working folder is on the path, which is this checkout.
        [python, "-P", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "TERM": "dumb"},
        input=text,
        capture_output=True,
        text=True,
        timeout=scale(seconds),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Environment:
    """A virtual environment with one wheel."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        run_python("-m", "venv", "--without-pip", str(folder))
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        # Without a network, and without what the wheel depends on.
        run_python(
            *("-m", "pip", "--python", str(self.python), "install", "--quiet"),
            *("--no-deps", "--no-index", str(wheel)),
        )

    def copy_package(self, name: str) -> None:
        """Copy a package without dependencies from the environment of the tests."""
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        shutil.copytree(Path(spec.origin).parent, self.packages / name)

    def add_packages_of_tests(self) -> None:
        """Let it import what the environment of the tests has installed."""
        found = [path for path in sys.path if path.endswith("site-packages")]
        (self.packages / "tests.pth").write_text("\n".join(found) + "\n")
