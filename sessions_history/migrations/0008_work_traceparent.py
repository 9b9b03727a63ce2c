from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0007_chain"),
    ]

    operations = [
        migrations.AddField(
            model_name="work",
            name="traceparent",
            field=models.CharField(blank=True, db_default="", max_length=55),
        ),
    ]
