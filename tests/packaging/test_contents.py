"""Test that each distribution contains the library, and nothing else."""

import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from tests.packaging.conftest import Built
from tests.packaging.environments import run_python
from tests.project import ROOT

PACKAGES = ("connections", "sessions_history")


def list_wheel(built: Built) -> set[str]:
    """Return the paths in a wheel without those of its metadata."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
    return {name for name in names if ".dist-info/" not in name}


def list_tracked(*folders: str) -> set[str]:
    """Return the paths of the files that the wheel should contain."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {path for path in done.stdout.splitlines() if (ROOT / path).exists()}


def read_metadata(built: Built) -> Any:
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_contains_both_packages_whole(library: Built) -> None:
    assert list_wheel(library) == list_tracked(*PACKAGES)
    assert {f"{name}/py.typed" for name in PACKAGES} <= list_wheel(library)


def test_the_client_contains_the_same_files(client: Built, library: Built) -> None:
    expected = list_tracked("connections/client") | {
        f"connections/{name}"
        for name in ("__init__.py", "close_codes.py", "parts.py", "py.typed")
    }
    assert list_wheel(client) == expected
    with (
        zipfile.ZipFile(client.wheel) as ours,
        zipfile.ZipFile(library.wheel) as theirs,
    ):
        assert all(ours.read(name) == theirs.read(name) for name in expected)


def test_the_sdist_contains_what_builds_the_wheel(either: Built) -> None:
    with tarfile.open(either.sdist) as archive:
        paths = {Path(*Path(one.name).parts[1:]) for one in archive if one.isfile()}
    roots = {path.parts[0] for path in paths if len(path.parts) > 1}
    assert {root for root in roots if not root.endswith(".egg-info")} <= {*PACKAGES}
    files = {str(path) for path in paths if len(path.parts) == 1}
    metadata = {"PKG-INFO", "setup.cfg"}
    assert files - metadata == {"LICENSE", "README.md", "pyproject.toml"}


def test_the_metadata_names_licence_versions_and_typing(either: Built) -> None:
    metadata = read_metadata(either)
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert "Orchestra contributors" in (ROOT / "LICENSE").read_text()
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    assert "Programming Language :: Python :: 3.13" in classifiers
    assert Version(metadata["Version"]) >= Version("0.2.0.dev0")


def test_the_library_never_depends_on_its_client(library: Built) -> None:
    requirements = map(Requirement, read_metadata(library).get_all("Requires-Dist"))
    assert "orchestra-websocket-client" not in {one.name for one in requirements}


def test_the_client_depends_on_websockets_alone(client: Built) -> None:
    assert read_metadata(client).get_all("Requires-Dist") == ["websockets>=15"]


def test_both_distributions_share_their_metadata() -> None:
    first, second = (
        tomllib.loads((folder / "pyproject.toml").read_text())
        for folder in (ROOT, ROOT / "clients" / "python")
    )
    for key in ("license", "authors", "requires-python"):
        assert first["project"][key] == second["project"][key]
    assert first["build-system"] == second["build-system"]


def test_twine_accepts_both_files(either: Built) -> None:
    run_python("-m", "twine", "check", "--strict", str(either.wheel), str(either.sdist))


def test_check_wheel_contents_finds_nothing(either: Built) -> None:
    run_python("-m", "check_wheel_contents", str(either.wheel), folder=either.source)
