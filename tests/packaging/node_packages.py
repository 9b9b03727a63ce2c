"""Install the tools of the JavaScript client from npm, and build its package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from connections.testing.waiting import scale
from tests.project import ROOT

SOURCE = ROOT / "clients" / "javascript"


class NodePackage:
    """The built package, beside the node_modules of its development."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built = folder / "package"

    def run(self, *command: str, cwd: Path | None = None, **environment: str) -> str:
        """Return the output of a command; the test fails with its errors."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=scale(150),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self) -> None:
        """Install what package.json names for development."""
        described = json.loads((SOURCE / "package.json").read_text())
        project = {
            "private": True,
            "type": "module",
            "dependencies": described["devDependencies"],
        }
        (self.folder / "package.json").write_text(json.dumps(project))
        self.run("npm", "install", "--no-fund", "--no-audit", "--no-package-lock")

    def build(self) -> None:
        """Build the package, and install it as a project would."""
        script = str(SOURCE / "build.py")
        self.run(sys.executable, script, "--output", str(self.built))
        name = json.loads((SOURCE / "package.json").read_text())["name"]
        shutil.copytree(self.built, self.folder / "node_modules" / name)


def make_node_package(factory: pytest.TempPathFactory) -> NodePackage:
    """Return the built package; without npm skip the test, or fail in CI."""
    if shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing")
        pytest.skip("npm is missing")
    package = NodePackage(factory.mktemp("npm"))
    package.install()
    package.build()
    return package
