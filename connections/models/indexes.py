"""
Change the indexes of large tables in migrations, while nodes write to them.

PostgreSQL builds and drops them CONCURRENTLY, which blocks no write. SQLite builds
an index in one short transaction. The migration needs `atomic = False`.
"""

from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

_FIND_INDEX = """
    SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relname = %s AND pg_table_is_visible(pg_class.oid)
"""


class AddIndex(migrations.AddIndex):
    """
    Add an index without a lock; if it exists already, keep it.

    A build that was interrupted leaves an invalid index, which is built again.
    """

    atomic = False

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        database: Any = schema_editor.connection
        if not self.allow_migrate_model(database.alias, model):
            return
        name = self.index.name
        if _is_there(database, name, model._meta.db_table):
            return
        if database.vendor != "postgresql":
            schema_editor.add_index(model, self.index)
            return
        _drop(schema_editor, name)
        statement: Any = self.index.create_sql(model, schema_editor, concurrently=True)
        _run_long(schema_editor, statement)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            _drop(schema_editor, self.index.name)


class RemoveIndex(migrations.RemoveIndex):
    """Remove an index without a lock."""

    atomic = False

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            _drop(schema_editor, self.name)


class RemoveFieldIndexes(migrations.AlterField):
    """
    Remove the indexes of one field, which has `db_index=False` from now on.

    The table stays as it is: on SQLite Django would copy all rows.
    """

    atomic = False

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        database: Any = schema_editor.connection
        if not self.allow_migrate_model(database.alias, model):
            return
        column = model._meta.get_field(self.name).column
        kept = {index.name for index in model._meta.indexes}
        with database.cursor() as cursor:
            found = database.introspection.get_constraints(cursor, model._meta.db_table)
        for name, one in found.items():
            is_plain = one["index"] and not (one["unique"] or one["primary_key"])
            if is_plain and one["columns"] == [column] and name not in kept:
                _drop(schema_editor, name)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        super().database_forwards(app_label, schema_editor, from_state, to_state)


def _is_there(database: Any, name: str, table: str) -> bool:
    """Return True if a table has an index, and PostgreSQL has built it entirely."""
    with database.cursor() as cursor:
        if database.vendor != "postgresql":
            return name in database.introspection.get_constraints(cursor, table)
        cursor.execute(_FIND_INDEX, [name])
        return bool(cursor.fetchone() == (True,))


def _drop(schema_editor: BaseDatabaseSchemaEditor, name: str) -> None:
    if schema_editor.connection.vendor == "postgresql":
        _run_long(schema_editor, f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
    else:
        schema_editor.execute(f'DROP INDEX IF EXISTS "{name}"')


def _run_long(schema_editor: BaseDatabaseSchemaEditor, statement: Any) -> None:
    """
    Run a statement on PostgreSQL that may take and wait for long.

    It waits for the end of older transactions, and holds up nobody meanwhile.
    """
    for name in ("statement_timeout", "lock_timeout"):
        schema_editor.execute(f"SET {name} = 0")
    try:
        schema_editor.execute(statement)
    finally:
        for name in ("statement_timeout", "lock_timeout"):
            schema_editor.execute(f"RESET {name}")
