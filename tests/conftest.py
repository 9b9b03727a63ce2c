"""What every test needs: a database of its own, and examples that may take long."""

import os

import pytest
from django.conf import settings as project
from hypothesis import settings

# The same examples in every run of CI: chance must not decide what lands.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("invariants", "the run of tests/integration/chaos.py")
    group.addoption(
        "--invariant-seconds", type=float, default=40, help="how long it lasts"
    )
    group.addoption(
        "--invariant-seed", type=int, default=None, help="what happens in it, and when"
    )


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each run a SQLite file of its own, so that two at once do not meet."""
    database = project.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["TEST"]["NAME"] = tmp_path_factory.mktemp("database") / "test.sqlite3"
