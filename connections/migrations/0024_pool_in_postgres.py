"""Create the tables and functions of the pool in PostgreSQL."""

from pathlib import Path
from typing import Any

from django.db import migrations

SCRIPT = Path(__file__).parents[1] / "pool" / "scripts" / "postgres_1.sql"

REMOVAL = """
DO $$
DECLARE
  found regprocedure;
BEGIN
  FOR found IN
    SELECT oid::regprocedure FROM pg_proc
    WHERE proname LIKE 'connections\\_pool\\_%\\_1'
    AND pronamespace = current_schema()::regnamespace
  LOOP
    EXECUTE 'DROP FUNCTION ' || found;
  END LOOP;
END $$;
DROP TABLE connections_pool_slot, connections_pool_lease, connections_pool_state,
  connections_bus_message;
"""


def create(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(SCRIPT.read_text(encoding="utf-8"), params=None)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(REMOVAL, params=None)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0023_presence"),
    ]

    operations = [
        migrations.RunPython(create, remove),
    ]
