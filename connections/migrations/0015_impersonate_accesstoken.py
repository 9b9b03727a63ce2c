"""Add the permission to create access tokens for other users."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0014_plain_help_texts"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="accesstoken",
            options={
                "ordering": ["-created_at"],
                "permissions": [
                    (
                        "impersonate_accesstoken",
                        "Can create access tokens for other users",
                    )
                ],
            },
        ),
    ]
