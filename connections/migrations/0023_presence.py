"""Create the tables of presence in PostgreSQL."""

from typing import Any

from django.db import migrations

TABLES = """
CREATE TABLE connections_presence_lease (
  node_id text PRIMARY KEY,
  ends_at timestamptz NOT NULL
);
CREATE TABLE connections_presence_member (
  room text NOT NULL,
  member text NOT NULL,
  data text NOT NULL,
  due timestamptz,
  PRIMARY KEY (room, member)
);
CREATE INDEX connections_presence_member_due
  ON connections_presence_member (due) WHERE due IS NOT NULL;
CREATE TABLE connections_presence_holder (
  node_id text NOT NULL,
  room text NOT NULL,
  member text NOT NULL,
  PRIMARY KEY (node_id, room, member)
);
CREATE INDEX connections_presence_holder_member
  ON connections_presence_holder (room, member);
"""

REMOVAL = """
DROP TABLE connections_presence_holder, connections_presence_member,
  connections_presence_lease;
"""


def create(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(TABLES, params=None)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(REMOVAL, params=None)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0022_longest_silence"),
    ]

    operations = [
        migrations.RunPython(create, remove),
    ]
