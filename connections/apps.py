from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    name = "connections"
    verbose_name = "WebSocket connections"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from connections import checks, exposition
        from connections.access import revocation

        checks.register()
        exposition.register()
        revocation.watch()
