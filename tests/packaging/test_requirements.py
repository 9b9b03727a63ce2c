"""Test that the pinned requirements are complete, for every cell."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.project import ROOT

FOLDER = ROOT / "requirements"
CELLS = {"django60": "6.0", "django61": "6.1", "oldest": "5.2"}
KNOWN_FOR = {
    "channels",
    "channels-redis",
    "daphne",
    "django",
    "django-prometheus",
    "pytest-asyncio",
    "pytest-django",
    "pyyaml",
}
PINNED = [ROOT / "requirements.txt", *sorted(FOLDER.glob("*.txt"))]


def read_requirements(path: Path) -> Iterator[Requirement]:
    """Yield the requirements of a file, with those of the files it names by -r."""
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r"):
            yield from read_requirements(path.parent / text.removeprefix("-r").strip())
        elif text and not text.startswith("-"):
            yield Requirement(text)


def read_names(path: Path) -> set[str]:
    return {canonicalize_name(one.name) for one in read_requirements(path)}


def read_pins(path: Path) -> dict[str, Version]:
    """Return the version of each package that a pinned file has for this machine."""
    return {
        canonicalize_name(one.name): Version(str(one.specifier).removeprefix("=="))
        for one in read_requirements(path)
        if one.marker is None or one.marker.evaluate()
    }


def read_declared(project: Path) -> list[Requirement]:
    """Return all that a pyproject.toml requires, extras included."""
    declared = tomllib.loads(project.read_text())["project"]
    extras = declared.get("optional-dependencies", {}).values()
    listed = [*declared["dependencies"], *(one for extra in extras for one in extra)]
    return [Requirement(one) for one in listed]


def find_needs(name: str, version: Version) -> list[Requirement]:
    """Return what a release requires without extras, if it is installed here."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    needs = map(Requirement, found.requires or ())
    return [
        one
        for one in needs
        if Version(found.version) == version
        and (one.marker is None or one.marker.evaluate())
    ]


def find_source(pinned: Path) -> Path:
    """Return the file that requirements/compile reads for a pinned one."""
    if pinned.stem in CELLS:
        return FOLDER / "cells.in"
    return FOLDER / f"{'quick' if pinned.stem == 'requirements' else pinned.stem}.in"


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_exactly(path: Path) -> None:
    for one in read_requirements(path):
        assert re.fullmatch(r"==[^*,]+", str(one.specifier)), str(one)


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_a_pinned_file_has_all_that_its_source_names(path: Path) -> None:
    assert read_names(find_source(path)) <= read_names(path)


def test_the_first_file_has_the_packages_that_the_project_is_known_for() -> None:
    assert read_names(ROOT / "requirements.txt") >= KNOWN_FOR


def test_the_first_file_has_all_that_the_quick_tests_need(tmp_path: Path) -> None:
    """They are collected with its packages alone; none is run."""
    for name in read_pins(ROOT / "requirements.txt"):
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or ()} - {".."}:
            place = tmp_path / top
            if not place.exists():
                place.symlink_to(str(distribution.locate_file(top)))
    done = subprocess.run(
        # -S: without the packages of this environment.
        [
            *(sys.executable, "-S", "-m", "pytest", "-q", "--collect-only"),
            *("-p", "no:cacheprovider", "-m", "quick"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_pins_all_that_the_package_declares(cell: str) -> None:
    pins = read_pins(FOLDER / f"{cell}.txt")
    assert f"{pins['django']}".startswith(CELLS[cell])
    for one in read_declared(ROOT / "pyproject.toml"):
        name = canonicalize_name(one.name)
        if name == "django-prometheus" and cell != "oldest":
            continue  # Its newest release refuses Django 6.1.
        assert pins[name] in one.specifier, str(one)


def test_the_oldest_cell_has_the_oldest_release_that_is_allowed() -> None:
    pins = read_pins(FOLDER / "oldest.txt")
    for one in read_declared(ROOT / "pyproject.toml"):
        allowed = {str(pins[canonicalize_name(one.name)])}
        (bound,) = [each.version for each in one.specifier if each.operator == ">="]
        # A release may be missing, as psycopg-binary 3.2.0 is.
        assert {bound, f"{bound}.0", f"{bound}.1"} & allowed, str(one)


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_a_pinned_file_has_what_its_packages_need(path: Path) -> None:
    """All files but the first are installed beside it, each without a resolver."""
    pins = read_pins(path)
    if path.stem not in CELLS:
        pins |= read_pins(ROOT / "requirements.txt")
    missing = {
        f"{name} needs {one}"
        for name, version in pins.items()
        for one in find_needs(name, version)
        if canonicalize_name(one.name) not in pins
    }
    assert missing == set()


def test_what_the_package_declares_is_pinned_and_so_is_on_the_index() -> None:
    """The compiler takes every pin from PyPI."""
    pinned = set[str]().union(*map(read_names, PINNED))
    for project in (ROOT, ROOT / "clients" / "python"):
        declared = read_declared(project / "pyproject.toml")
        assert {canonicalize_name(one.name) for one in declared} <= pinned


def test_no_requirement_names_a_distribution_of_this_repository() -> None:
    named = set[str]().union(*map(read_names, [*PINNED, *FOLDER.glob("*.in")]))
    assert not {one for one in named if one.startswith("orchestra")}


def test_shared_pins_agree() -> None:
    """All files of the default cell install into one environment."""
    versions: dict[tuple[str, str], set[str]] = {}
    for path in PINNED:
        if path.stem not in CELLS:
            for one in read_requirements(path):
                key = (canonicalize_name(one.name), str(one.marker))
                versions.setdefault(key, set()).add(str(one.specifier))
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}
