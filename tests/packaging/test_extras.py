"""Test that an extra names what its part of the library imports, and nothing else."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.project import ROOT

IMPORTED_AS = {"pyjwt": "jwt"}
"""Distributions whose package has another name."""

INSTALLED = {
    "asgiref",
    "channels",
    "connections",
    "cryptography",  # Daphne brings it, with TLS.
    "daphne",
    "django",
    "twisted",
}
"""Packages that every installation of the library has."""


def find_imports(*paths: Path) -> Iterator[str]:
    """Yield the names of the packages that files import, at any depth."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("extra", "patterns"),
    [
        ("capacity", ["capacity/**/*.py", "management/commands/capacity.py"]),
        ("client", ["client/**/*.py"]),
        ("jwt", ["credentials/jwt*.py"]),
    ],
)
def test_an_extra_is_what_its_part_imports(extra: str, patterns: list[str]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [Requirement(one).name for one in declared["optional-dependencies"][extra]]
    paths = [path for one in patterns for path in (ROOT / "connections").glob(one)]
    assert paths
    imported = set(find_imports(*paths)) - INSTALLED - sys.stdlib_module_names
    assert imported == {IMPORTED_AS.get(name, name) for name in names}
