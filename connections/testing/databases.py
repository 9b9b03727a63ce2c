"""Use the databases of a server in the test's process."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Databases = Mapping[str, Mapping[str, Any]]
"""The differences from DATABASES, by alias."""


def run_on(
    databases: Databases,
    work: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """
    Run work of Django's ORM on other databases, and wait for its result.

    It runs in a thread of its own: a coroutine may call it, and no other thread
    uses these databases.
    """

    def run() -> Result:
        use_in_thread(databases)
        try:
            return work(*args, **kwargs)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def use_in_thread(databases: Databases) -> None:
    """Use other databases in this thread from now on."""
    for alias, changed in databases.items():
        settings = {**connections.settings[alias], **changed}
        backend = load_backend(settings["ENGINE"])
        opened = backend.DatabaseWrapper(settings, alias)
        opened.ensure_connection = partial(_ensure_connection, opened)
        connections[alias] = opened


def _ensure_connection(opened: BaseDatabaseWrapper) -> None:
    """
    Connect as Django does.

    pytest-django blocks Django's own method in tests that asked for no database.
    These databases were named explicitly.
    """
    if opened.connection is None:
        with opened.wrap_database_errors:
            opened.connect()


def find_test_databases() -> dict[str, dict[str, Any]]:
    """
    Return the names of the databases of this test run, by alias.

    Raises:
        ValueError: a database is in memory, where no other process finds it.
    """
    found = {}
    for alias in connections:
        name = str(connections[alias].settings_dict["NAME"])
        if name == ":memory:" or "mode=memory" in name:
            raise ValueError(
                f"the test database {alias!r} is in memory, where a server process "
                f"cannot read it: give DATABASES[{alias!r}]['TEST']['NAME'] a file"
            )
        found[alias] = {"NAME": name}
    return found
