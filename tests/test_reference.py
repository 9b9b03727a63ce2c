"""Test the tables of the reference that docs/_ext/reference.py writes."""

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from django.core.checks.registry import registry

from tests.project import ROOT


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = spec_from_file_location("reference", ROOT / "docs/_ext/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_checks_says_which_need_deploy(reference: ModuleType) -> None:
    rows = [line.split(" | ") for line in reference.describe_checks().splitlines()[2:]]
    runs = {row[0].strip("|` "): row[2].strip("`") for row in rows}
    for number in (13, 14, 15, 17, 18, 19, 20, 21, 24, 25):
        assert runs[f"connections.W{number:03}"] == "check"
    for number in (*range(1, 13), 16, 23, 26, 27):
        assert runs[f"connections.W{number:03}"] == "check --deploy"
    assert runs["connections.I001"] == "check --deploy"
    assert {run for name, run in runs.items() if ".E" in name} == {"check"}


def test_rows_of_one_id_have_the_texts_of_their_own_checks(
    reference: ModuleType,
) -> None:
    rows = [one for one in reference.describe_checks().splitlines() if "E007" in one]
    assert len({row.split(" | ")[3] for row in rows}) == len(rows) == 2


@pytest.mark.parametrize("of", ["registered_checks", "deployment_checks"])
def test_a_docstring_says_whether_a_check_needs_deploy(of: str) -> None:
    ours = [
        one
        for one in getattr(registry, of)
        if one.__module__.partition(".")[0] in ("connections", "sessions_history")
    ]
    assert ours
    for one in ours:
        heading = (one.__doc__ or "").partition(":")[0]
        assert ("check --deploy" in heading) == (of == "deployment_checks")


def test_each_class_of_the_browser_has_its_options(reference: ModuleType) -> None:
    """A type may have a description, and others after it."""
    page = reference.describe_javascript()
    for name, option in (
        ("SessionClient", "presence"),
        ("SharedConnection", "clock"),
        ("HttpSessions", "csrfToken"),
    ):
        options = page.partition(f"## Options of `{name}`")[2].partition("\n## ")[0]
        assert option in options
        assert "@typedef" not in options
