"""Index the rows that lists and searches show, without a lock on the tables."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import connections.models.user_key
from connections.models.indexes import AddIndex, RemoveFieldIndexes


class Migration(migrations.Migration):
    # An index is built without a lock outside of a transaction alone.
    atomic = False

    dependencies = [
        ("connections", "0018_top_of_nodes"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="connection",
            options={"ordering": ["-opened_at", "-connection_id"]},
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(fields=["user", "-opened_at"], name="connection_user"),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                fields=["node", "-opened_at"], name="connection_of_node"
            ),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                fields=["node", "reason", "-closed_at"], name="connection_node_reason"
            ),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["opened_at"],
                name="connection_open",
            ),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["client_id", "opened_at"],
                name="connection_open_client",
            ),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["user", "opened_at"],
                name="connection_open_user",
            ),
        ),
        AddIndex(
            model_name="connection",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["node", "opened_at"],
                name="connection_open_node",
            ),
        ),
        AddIndex(
            model_name="errorevent",
            index=models.Index(fields=["exception_class", "-at"], name="error_class"),
        ),
        AddIndex(
            model_name="errorevent",
            index=models.Index(fields=["connection", "-at"], name="error_connection"),
        ),
        RemoveFieldIndexes(
            model_name="connection",
            name="node",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="connections.node",
            ),
        ),
        RemoveFieldIndexes(
            model_name="connection",
            name="user",
            field=connections.models.user_key.UserKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=connections.models.user_key.set_null,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        RemoveFieldIndexes(
            model_name="errorevent",
            name="connection",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="error_events",
                to="connections.connection",
            ),
        ),
        RemoveFieldIndexes(
            model_name="errorevent",
            name="exception_class",
            field=models.CharField(max_length=255),
        ),
    ]
