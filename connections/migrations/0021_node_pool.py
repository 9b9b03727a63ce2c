"""Record the pool of each node."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0020_hour_rollups"),
    ]

    operations = [
        migrations.AddField(
            model_name="node",
            name="pool",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Where the node's slots are; empty: written by an older "
                "release.",
                max_length=10,
            ),
        ),
    ]
