from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0012_parts"),
    ]

    operations = [
        migrations.AddField(
            model_name="historyentry",
            name="replaces",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
