"""Let nodes store what they counted of their clients, addresses and routes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0017_ban_help"),
    ]

    operations = [
        migrations.AddField(
            model_name="nodepicture",
            name="top",
            field=models.BinaryField(null=True),
        ),
    ]
