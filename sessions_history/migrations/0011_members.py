import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import connections.models.user_key
import sessions_history.member_models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_history", "0010_session_title"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="historyentry",
            name="author",
            field=models.CharField(blank=True, db_default="", max_length=255),
        ),
        migrations.CreateModel(
            name="SessionInvitation",
            fields=[
                (
                    "invitation_id",
                    models.CharField(
                        default=sessions_history.member_models.make_invitation_id,
                        max_length=32,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("owner", "Owner"),
                            ("writer", "Writer"),
                            ("reader", "Reader"),
                            ("agent", "Agent"),
                        ],
                        max_length=8,
                    ),
                ),
                ("is_single_use", models.BooleanField(default=True)),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("expires_at", models.DateTimeField(db_index=True)),
                ("used_at", models.DateTimeField(blank=True, null=True)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "author",
                    connections.models.user_key.UserKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=connections.models.user_key.set_null,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="sessions_history.session",
                    ),
                ),
            ],
            options={
                "verbose_name": "invitation",
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="SessionMember",
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
                    "role",
                    models.CharField(
                        choices=[
                            ("owner", "Owner"),
                            ("writer", "Writer"),
                            ("reader", "Reader"),
                            ("agent", "Agent"),
                        ],
                        max_length=8,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="sessions_history.session",
                    ),
                ),
                (
                    "user",
                    connections.models.user_key.UserKey(
                        db_constraint=False,
                        on_delete=connections.models.user_key.cascade,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "member",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("session", "user"), name="session_member_is_unique"
                    )
                ],
            },
        ),
    ]
