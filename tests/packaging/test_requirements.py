"""Test that the pinned requirements are complete, for every cell."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import ROOT

FOLDER = ROOT / "requirements"
CELLS = {"django60": "6.0", "django61": "6.1"}
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


def read_declared(project: Path) -> set[str]:
    """Return the names of all that a pyproject.toml requires, extras included."""
    declared = tomllib.loads(project.read_text())["project"]
    extras = declared.get("optional-dependencies", {}).values()
    listed = [*declared["dependencies"], *(one for extra in extras for one in extra)]
    return {canonicalize_name(Requirement(one).name) for one in listed}


def find_source(pinned: Path) -> Path:
    """Return the file that requirements/compile reads for a pinned one."""
    quick = pinned.stem in ("requirements", "oldest")
    return FOLDER / ("quick.in" if quick else f"{pinned.stem}.in")


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_exactly(path: Path) -> None:
    for one in read_requirements(path):
        assert re.fullmatch(r"==[^*,]+", str(one.specifier)), str(one)


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_a_pinned_file_has_all_that_its_source_names(path: Path) -> None:
    assert read_names(find_source(path)) <= read_names(path)


def test_the_first_file_has_the_packages_that_the_project_is_known_for() -> None:
    assert read_names(ROOT / "requirements.txt") >= KNOWN_FOR


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_differs_from_the_default_by_its_django_alone(cell: str) -> None:
    (django,) = [
        one
        for one in read_requirements(FOLDER / f"{cell}.txt")
        if one.name.lower() == "django"
    ]
    assert str(django.specifier).removeprefix("==").startswith(CELLS[cell])
    quick = read_names(FOLDER / "quick.in") - {"django-prometheus"}
    assert quick <= read_names(FOLDER / f"{cell}.in")


def test_what_the_package_declares_is_pinned_and_so_is_on_the_index() -> None:
    """The compiler takes every pin from PyPI."""
    pinned = set[str]().union(*map(read_names, PINNED))
    declared = read_declared(ROOT / "pyproject.toml")
    declared |= read_declared(ROOT / "clients" / "python" / "pyproject.toml")
    assert declared - pinned == set()


def test_no_requirement_names_a_distribution_of_this_repository() -> None:
    named = set[str]().union(*map(read_names, [*PINNED, *FOLDER.glob("*.in")]))
    assert not {one for one in named if one.startswith("orchestra")}


def test_shared_pins_agree() -> None:
    """All files of the default cell install into one environment."""
    versions: dict[tuple[str, str], set[str]] = {}
    for path in PINNED:
        if path.stem not in {"oldest", *CELLS}:
            for one in read_requirements(path):
                key = (canonicalize_name(one.name), str(one.marker))
                versions.setdefault(key, set()).add(str(one.specifier))
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}
