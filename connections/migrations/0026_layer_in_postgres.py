"""Create the tables and functions of the channel layer in PostgreSQL."""

from pathlib import Path
from typing import Any

from django.db import migrations

SCRIPT = Path(__file__).parents[1] / "layers" / "scripts" / "postgres_1.sql"

REMOVAL = """
DROP FUNCTION connections_layer_publish_1, connections_layer_poll_1;
DROP TABLE connections_layer_message, connections_layer_poller;
"""


def create(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(SCRIPT.read_text(encoding="utf-8"), params=None)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(REMOVAL, params=None)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0025_refused_handshakes"),
    ]

    operations = [
        migrations.RunPython(create, remove),
    ]
