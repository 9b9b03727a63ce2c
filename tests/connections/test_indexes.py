"""Test that migrations index a table while nodes write to it."""

from pathlib import Path
from typing import Any

import dj_database_url
from django.db import connection, migrations, models
from django.db.migrations.state import ModelState, ProjectState
from django.test.utils import CaptureQueriesContext

from connections.models.indexes import AddIndex, RemoveFieldIndexes, RemoveIndex
from connections.testing.databases import Databases, run_on
from tests.integration.services import PostgresProcess

INDEX = models.Index(fields=["name"], name="thing_name")


def make_state() -> ProjectState:
    fields: dict[str, Any] = {
        "id": models.BigAutoField(primary_key=True),
        "name": models.CharField(max_length=20),
        "kind": models.CharField(max_length=20, db_index=True),
    }
    state = ProjectState()
    state.add_model(ModelState("connections", "Thing", fields))
    return state


def apply(state: ProjectState, operation: migrations.operations.base.Operation) -> Any:
    """Apply an operation outside of a transaction; return the state after it."""
    after = state.clone()
    operation.state_forwards("connections", after)
    with connection.schema_editor(atomic=False) as editor:
        operation.database_forwards("connections", editor, state, after)
    return after


def list_indexes() -> dict[str, list[str]]:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, "connections_thing")
    return {
        name: one["columns"]
        for name, one in found.items()
        if one["index"] and not one["primary_key"]
    }


def make_table() -> ProjectState:
    state = make_state()
    with connection.schema_editor() as editor:
        editor.create_model(state.apps.get_model("connections", "Thing"))
    return state


def check_changes() -> None:
    state = make_table()
    (of_field,) = {tuple(columns) for columns in list_indexes().values()}
    assert of_field == ("kind",)
    field = models.CharField(max_length=20)
    state = apply(state, RemoveFieldIndexes("thing", "kind", field))
    assert list_indexes() == {}
    indexed = apply(state, AddIndex("thing", INDEX))
    assert list_indexes() == {"thing_name": ["name"]}
    # A migration that was interrupted after the index is run again.
    assert apply(state, AddIndex("thing", INDEX)) is not None
    apply(indexed, RemoveIndex("thing", "thing_name"))
    assert list_indexes() == {}


def test_indexes_are_added_and_removed_on_sqlite(tmp_path: Path) -> None:
    engine = "django.db.backends.sqlite3"
    name = tmp_path / "db.sqlite3"
    run_on({"default": {"ENGINE": engine, "NAME": name, "OPTIONS": {}}}, check_changes)


def test_indexes_are_added_and_removed_on_postgres(
    postgres_server: PostgresProcess,
) -> None:
    run_on(make_database(postgres_server, "changed"), check_changes)


def test_an_index_is_built_beside_a_transaction_that_writes(
    postgres_server: PostgresProcess,
) -> None:
    """CREATE INDEX alone would wait for it, and all other writes for the index."""
    databases = make_database(postgres_server, "busy")

    def build() -> str:
        state = make_table()
        with (
            postgres_server.connect("busy") as writer,
            CaptureQueriesContext(connection) as captured,
        ):
            writer.execute("INSERT INTO connections_thing (name, kind) VALUES ('', '')")
            apply(state, AddIndex("thing", INDEX))
        return next(one["sql"] for one in captured if "CREATE" in one["sql"])

    assert run_on(databases, build).startswith("CREATE INDEX CONCURRENTLY")


def test_an_interrupted_build_is_repeated(postgres_server: PostgresProcess) -> None:
    """PostgreSQL leaves an index that nothing uses."""

    def build() -> bool:
        state = make_table()
        apply(state, AddIndex("thing", INDEX))
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE pg_index SET indisvalid = false"
                " WHERE indexrelid = 'thing_name'::regclass"
            )
        apply(state, AddIndex("thing", INDEX))
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT indisvalid FROM pg_index"
                " WHERE indexrelid = 'thing_name'::regclass"
            )
            return bool(cursor.fetchone()[0])

    assert run_on(make_database(postgres_server, "interrupted"), build)


def make_database(server: PostgresProcess, name: str) -> Databases:
    url = server.create_database(name)
    return {"default": {**dj_database_url.parse(url), "OPTIONS": {}}}
