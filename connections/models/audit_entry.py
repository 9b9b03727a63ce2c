"""Store what staff, commands, the API and rules did."""

from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now


class AuditEntry(models.Model):
    """One action on one target; connections.audit writes it with the action."""

    class Via(models.TextChoices):
        DASHBOARD = "dashboard"
        ADMIN = "admin"
        COMMAND = "command"
        API = "api", "API"
        RULE = "rule"
        CODE = "code", "code of the project"

    at = MomentField(db_default=Now(), db_index=True)
    actor = models.CharField(
        max_length=150, blank=True, help_text="The user, command or rule that acted."
    )
    via = models.CharField(max_length=12, choices=Via.choices)
    action = models.CharField(
        max_length=20, help_text="Such as end, ban, unban, revoke, drain or notice."
    )
    target = models.CharField(
        max_length=12, blank=True, help_text="As of a close request."
    )
    value = models.CharField(max_length=255, blank=True)
    reason = models.CharField(max_length=255, blank=True)
    facts = models.JSONField(
        default=dict, help_text="Options of the action, such as the end of a ban."
    )

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["action", "-id"], name="audit_action")]

    def __str__(self) -> str:
        return f"{self.action} {self.target} {self.value}".strip()
