from django.apps import AppConfig


class SessionsHistoryConfig(AppConfig):
    name = "sessions_history"
    verbose_name = "Session history"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from sessions_history import api, checks, personal_data, pruning

        api.register()
        checks.register()
        personal_data.register()
        pruning.register()
