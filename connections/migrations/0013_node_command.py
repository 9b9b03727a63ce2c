"""Rename the model Order to NodeCommand; its table keeps its name."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("connections", "0012_rollup_memory")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameModel("Order", "NodeCommand"),
                migrations.AlterModelTable("NodeCommand", "connections_order"),
            ]
        )
    ]
