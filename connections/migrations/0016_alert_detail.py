"""Name what the value of an alert counts."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0015_impersonate_accesstoken"),
    ]

    operations = [
        migrations.AddField(
            model_name="alert",
            name="detail",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="What the value counts, such as the names of overdue steps.",
                max_length=255,
            ),
        ),
    ]
