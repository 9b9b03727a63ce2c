from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0017_producer_used_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="work",
            name="claims",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
