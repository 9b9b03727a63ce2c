"""Say what an IPv6 address in a ban stands for; the table stays as it is."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0016_alert_detail"),
    ]

    operations = [
        migrations.AlterField(
            model_name="ban",
            name="value",
            field=models.CharField(
                help_text="A client id, the name or key of a user, or an address such as 192.0.2.7, 2001:db8::/64 or 192.0.2.0/24. An IPv6 address stands for its /64; 2001:db8::7/128 is the address alone.",
                max_length=255,
            ),
        ),
    ]
