"""Index the rows that lists and searches show, without a lock on the tables."""

from django.db import migrations, models

from connections.models.indexes import AddIndex


class Migration(migrations.Migration):
    # An index is built without a lock outside of a transaction alone.
    atomic = False

    dependencies = [
        ("sessions_history", "0005_deleted_session"),
    ]

    operations = [
        AddIndex(
            model_name="historyentry",
            index=models.Index(
                condition=models.Q(("state", "done"), _negated=True),
                fields=["state", "sender", "id"],
                name="entry_not_done",
            ),
        ),
        AddIndex(
            model_name="historyentry",
            index=models.Index(fields=["sender", "id"], name="entry_sender"),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(
                fields=["client_id"],
                name="session_client_prefix",
                opclasses=["varchar_pattern_ops"],
            ),
        ),
        AddIndex(
            model_name="session",
            index=models.Index(
                condition=models.Q(("last_offset", 0)),
                fields=["last_seen_at"],
                name="session_empty",
            ),
        ),
    ]
