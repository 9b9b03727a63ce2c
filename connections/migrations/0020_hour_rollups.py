"""Add the hours that charts of seven days read."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0019_indexes_of_lists"),
    ]

    operations = [
        migrations.CreateModel(
            name="HourRollup",
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
                    "open_connections",
                    models.PositiveIntegerField(
                        default=0, help_text="Open at the end of the minute."
                    ),
                ),
                ("opened", models.PositiveBigIntegerField(default=0)),
                ("ended", models.PositiveBigIntegerField(default=0)),
                ("refused", models.PositiveBigIntegerField(default=0)),
                ("evicted", models.PositiveBigIntegerField(default=0)),
                ("messages_in", models.PositiveBigIntegerField(default=0)),
                ("messages_out", models.PositiveBigIntegerField(default=0)),
                ("bytes_in", models.PositiveBigIntegerField(default=0)),
                ("bytes_out", models.PositiveBigIntegerField(default=0)),
                ("errors", models.PositiveBigIntegerField(default=0)),
                ("rate_limited", models.PositiveBigIntegerField(default=0)),
                ("handled", models.PositiveBigIntegerField(default=0)),
                ("handling_seconds", models.FloatField(default=0)),
                (
                    "duration_seconds",
                    models.FloatField(
                        default=0, help_text="Sum over the connections that ended."
                    ),
                ),
                ("ack_seconds", models.FloatField(default=0)),
                ("max_loop_lag_seconds", models.FloatField(default=0)),
                ("ends_by_reason", models.JSONField(default=dict)),
                ("refused_by_outcome", models.JSONField(default=dict)),
                ("errors_by_kind", models.JSONField(default=dict)),
                ("resumes_by_outcome", models.JSONField(default=dict)),
                ("durations", models.JSONField(default=list)),
                ("handling", models.JSONField(default=list)),
                ("acks", models.JSONField(default=list)),
                (
                    "hour",
                    models.PositiveBigIntegerField(
                        help_text="Hours since 1970.", unique=True
                    ),
                ),
            ],
            options={
                "ordering": ["-hour"],
            },
        ),
    ]
