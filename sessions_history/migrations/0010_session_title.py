from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0009_work_metadata"),
    ]

    operations = [
        migrations.AddField(
            model_name="session",
            name="title",
            field=models.CharField(blank=True, db_default="", max_length=200),
        ),
    ]
