from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0008_work_traceparent"),
    ]

    operations = [
        migrations.AddField(
            model_name="work",
            name="metadata",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
