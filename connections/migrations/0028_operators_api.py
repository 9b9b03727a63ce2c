"""Add the permission to publish, and name the scopes of the API in a help text."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0027_audit_stream"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="livedashboard",
            options={
                "default_permissions": ("view",),
                "managed": False,
                "permissions": [
                    ("end_connection", "Can end connections"),
                    ("end_all", "Can end all connections of a client, user or node"),
                    ("drain_node", "Can drain a node"),
                    ("send_notice", "Can send a notice to clients"),
                    ("publish_to_group", "Can publish to groups through the API"),
                ],
                "verbose_name_plural": "live dashboard",
            },
        ),
        migrations.AlterField(
            model_name="accesstoken",
            name="scopes",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Routes, and paths with all below them; empty: valid for "
                "all. Only api:read and the like open the operators' API.",
            ),
        ),
    ]
