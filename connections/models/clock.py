"""The present by the database's clock, comparable with the moments in its columns."""

from typing import Any

from django.conf import settings
from django.db.models import functions
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
