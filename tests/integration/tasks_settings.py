"""The reference project with the database worker of django-tasks."""

from orchestra.settings import *  # noqa: F403
from orchestra.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks", "django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
