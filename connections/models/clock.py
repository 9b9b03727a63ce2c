"""The present by the database's clock, comparable with the moments in its columns."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import functions
from django.db.models.expressions import DatabaseDefault
from django.utils.deconstruct import deconstructible


@deconstructible(path="django.db.models.functions.datetime.Now")
class Now(functions.Now):
    """
    Django's Now(), also with USE_TZ=False.

    Columns then hold moments of TIME_ZONE, and SQLite's clock is in UTC. Django
    sets the time zone of the process to TIME_ZONE, which SQLite calls localtime.
    """

    def as_sqlite(
        self, compiler: Any, connection: Any, **extra_context: Any
    ) -> tuple[str, Any]:
        modifier = "" if settings.USE_TZ else ", 'localtime'"
        template = f"STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW'{modifier})"
        sql, params = self.as_sql(
            compiler, connection, template=template, **extra_context
        )
        return sql, params


class MomentField(models.DateTimeField):  # type: ignore[type-arg]
    """
    A moment that is Now() unless it is given; declare it with `db_default=Now()`.

    Django 6.1 leaves a value that is not given to the default of the column, which
    is in UTC on SQLite, also with USE_TZ=False.
    """

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Return the value to write, as an expression if none is given."""
        value = super().pre_save(model_instance, add)
        return self.db_default if isinstance(value, DatabaseDefault) else value
