from django.apps import AppConfig


class OrchestraConfig(AppConfig):
    name = "orchestra"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from orchestra import personal_data

        personal_data.register()
