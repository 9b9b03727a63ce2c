"""Record the handshakes that limits refuse, which `limits forecast` needs."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0024_pool_in_postgres"),
    ]

    operations = [
        migrations.CreateModel(
            name="RefusedHandshake",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                (
                    "at",
                    models.DateTimeField(db_index=True, help_text="The first of them."),
                ),
                ("client_id", models.CharField(blank=True, max_length=255)),
                ("route", models.CharField(blank=True, max_length=255)),
                ("reason", models.CharField(max_length=32)),
                ("count", models.PositiveIntegerField(default=1)),
            ],
            options={
                "ordering": ["-at"],
            },
        ),
    ]
