"""Record what `limits forecast` needs: the longest silence, and messages over the rate."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0021_node_pool"),
    ]

    operations = [
        migrations.AddField(
            model_name="connection",
            name="longest_silence_seconds",
            field=models.FloatField(
                blank=True,
                help_text="The longest idle time that a beat has seen; "
                "empty: not recorded.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="connection",
            name="silent_from",
            field=models.DateTimeField(
                blank=True, help_text="The start of the longest idle time.", null=True
            ),
        ),
        migrations.AddField(
            model_name="connection",
            name="over_rate",
            field=models.IntegerField(
                blank=True,
                help_text="Messages over the rate in force; empty: not recorded.",
                null=True,
            ),
        ),
    ]
