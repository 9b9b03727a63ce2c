from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    name = "connections"
    verbose_name = "WebSocket connections"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from connections import checks
        from connections.access import revocation
        from connections.personal_data import own_tables
        from connections.storage.in_test import watch_connections
        from connections.storage.request_threads import watch_requests
        from connections.sweeper import audit_stream, forgetting, postgres_messages
        from connections.views import prometheus

        audit_stream.register()
        checks.register()
        forgetting.register()
        own_tables.register()
        postgres_messages.register()
        prometheus.register()
        revocation.watch()
        watch_connections()
        watch_requests()
