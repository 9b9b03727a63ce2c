"""Say the help texts of models plainly; the tables stay as they are."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0013_node_command"),
    ]

    operations = [
        migrations.AlterField(
            model_name="accesstoken",
            name="hint",
            field=models.CharField(
                editable=False,
                help_text="The first characters of the token.",
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="accesstoken",
            name="last_used_at",
            field=models.DateTimeField(
                blank=True, help_text="When it last opened a connection.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="accesstoken",
            name="scopes",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Routes, and paths with all below them; empty: valid for all.",
            ),
        ),
        migrations.AlterField(
            model_name="alert",
            name="value",
            field=models.FloatField(help_text="The value at the last evaluation."),
        ),
        migrations.AlterField(
            model_name="ban",
            name="until",
            field=models.DateTimeField(
                blank=True, help_text="Leave empty for a ban without an end.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="closerequest",
            name="idle_seconds",
            field=models.FloatField(
                blank=True,
                help_text="Ends only connections that their node saw idle for this long.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="closerequest",
            name="spread_seconds",
            field=models.FloatField(
                default=0,
                help_text="The ends of the connections are spread over this time.",
            ),
        ),
        migrations.AlterField(
            model_name="connection",
            name="idle_timeout_seconds",
            field=models.FloatField(
                blank=True,
                help_text="Its own idle timeout (0: none); empty: the configured one.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="minuterollup",
            name="duration_seconds",
            field=models.FloatField(
                default=0, help_text="Sum over the connections that ended."
            ),
        ),
        migrations.AlterField(
            model_name="minuterollup",
            name="open_connections",
            field=models.PositiveIntegerField(
                default=0, help_text="Open at the end of the minute."
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="counters",
            field=models.JSONField(
                default=dict, help_text="Counts since the start of the node."
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="degraded",
            field=models.CharField(
                blank=True,
                help_text="Why the limits do not hold across nodes at present; empty: they do.",
                max_length=255,
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="generation",
            field=models.PositiveIntegerField(
                default=1,
                help_text="Grows each time the node returns after it was lost.",
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="loop_lag_seconds",
            field=models.FloatField(
                default=0,
                help_text="The largest lag of the event loop in the last 10 s.",
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="minute",
            field=models.JSONField(
                default=dict, help_text="Counts of the minute under way."
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="rolled_minute",
            field=models.PositiveBigIntegerField(
                default=0,
                help_text="The last whole minute that a sweeper has rolled up.",
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="unrolled",
            field=models.JSONField(
                default=list, help_text="Whole minutes that no sweeper has rolled up."
            ),
        ),
        migrations.AlterField(
            model_name="nodecommand",
            name="nodes",
            field=models.PositiveIntegerField(
                default=0, help_text="Nodes that have carried it out."
            ),
        ),
        migrations.AlterField(
            model_name="nodecommand",
            name="target",
            field=models.CharField(
                help_text="As of a close request; for other commands, node.",
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="nodecommand",
            name="text",
            field=models.CharField(
                blank=True, help_text="The text of a notice.", max_length=500
            ),
        ),
    ]
