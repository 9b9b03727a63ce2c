"""What a node knows of its cluster, read from the database now and then."""

from datetime import timedelta

from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from connections.database import Database
from connections.metrics.meter import Meter
from connections.models import Node, Sweep
from connections.units import Clock

SURVEY_SECONDS = 10
LOST_WITHIN = timedelta(minutes=10)
"""How long a dead node is counted as lost lately."""


class Survey:
    """
    Asks which of a node's minutes a sweeper has taken over, and how others fare.

    Ages are by the database's clock, so that nodes' clocks do not matter.
    """

    def __init__(
        self, *, node_id: str, database: Database, meter: Meter, clock: Clock
    ) -> None:
        self._clock = clock
        self._node_id = node_id
        self._database = database
        self._meter = meter
        self._sweep_age_seconds: float | None = None
        self._read_at = clock()
        self.lost_nodes = 0
        """Nodes found dead within the last ten minutes."""

    @property
    def sweep_age_seconds(self) -> float | None:
        """Since a sweep was last finished; None: never, or nothing was read yet."""
        if self._sweep_age_seconds is None:
            return None
        return self._sweep_age_seconds + self._clock() - self._read_at

    async def look(self) -> None:
        """
        Read all of it once.

        Raises:
            DatabaseUnavailable: what was known before stands.
        """
        rolled_minute = await self._database.read(self._read)
        self._meter.forget(rolled_minute)

    def _read(self) -> int:
        age = ExpressionWrapper(Now() - F("finished_at"), DurationField())
        ages = Sweep.objects.exclude(finished_at=None).annotate(age=age)
        last = ages.order_by("-finished_at").values_list("age", flat=True).first()
        self._sweep_age_seconds = None if last is None else last.total_seconds()
        self._read_at = self._clock()
        lately = Now() - LOST_WITHIN
        self.lost_nodes = Node.objects.lost_since(lately).count()
        own = Node.objects.filter(node_id=self._node_id)
        return own.values_list("rolled_minute", flat=True).first() or 0
