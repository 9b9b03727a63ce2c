"""Build the wheels of two releases, each with its reference application beside it."""

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.project import ROOT

FIRST_RELEASE = "52efa18"
"""The commit that counts as the previous release while there is no tag."""

_APPLICATION = ("orchestra", "templates", "static", "manage.py")
"""What a release needs beside the wheel; early ones keep static files at the top."""


def find_previous() -> str:
    """Return the last tag, else the first release; without history, skip but in CI."""
    tag = _git("describe", "--tags", "--abbrev=0", "HEAD^")
    if tag.returncode == 0:
        return tag.stdout.decode().strip()
    if _git("cat-file", "-e", f"{FIRST_RELEASE}^{{commit}}").returncode:
        missing = "the history has neither a tag nor the first release"
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: CI needs a clone that is not shallow")
        pytest.skip(f"NOT RUN: {missing}")
    return FIRST_RELEASE


def install_previous(reference: str, folder: Path) -> Path:
    """Install the release of a commit; return the folder to put on PYTHONPATH."""
    source = folder / "source"
    archive = _git("archive", reference)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(source, filter="data")
    return _install(source, folder)


def install_tree(folder: Path) -> Path:
    """Install the release that this tree would become."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    source = folder / "source"
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    return _install(source, folder)


def _install(source: Path, folder: Path) -> Path:
    """Build a wheel, and lay it out with the reference application of its source."""
    wheels, installed = folder / "wheels", folder / "installed"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    # setuptools-scm finds no history in a copy.
    environment = {**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": "0.0.0"}
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source],
        env=environment,
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", installed, wheel],
        check=True,
        capture_output=True,
    )
    for name in _APPLICATION:
        if (source / name).is_dir():
            shutil.copytree(source / name, installed / name)
        elif (source / name).exists():
            shutil.copy(source / name, installed / name)
    return installed


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
