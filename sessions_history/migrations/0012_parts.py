from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0011_members"),
    ]

    operations = [
        migrations.AddField(
            model_name="historyentry",
            name="parts",
            field=models.TextField(blank=True, db_default=""),
        ),
        migrations.AlterField(
            model_name="entrychunk",
            name="kind",
            field=models.CharField(
                choices=[("text", "Text"), ("parts", "Parts")],
                default="text",
                max_length=16,
            ),
        ),
    ]
