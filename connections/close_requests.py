"""Close requests: which connections of this node they end, and how often."""

from datetime import timedelta

from connections import close_codes
from connections.close_codes import ENDINGS
from connections.hub import Hub
from connections.models import CloseRequest
from connections.recorder import Recorder
from connections.units import Clock

_CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far the clocks of a node and of the database may be apart."""

_REMEMBERED_REQUESTS = 100_000


class AppliedRequests:
    """
    Applies close requests to the hub of one node, each on two beats.

    What was on its way into the hub at the first is there at the second; what
    arrived after the first came back by itself and may stay.
    """

    def __init__(
        self, *, hub: Hub, recorder: Recorder | None, node_id: str, clock: Clock
    ) -> None:
        self._hub = hub
        self._recorder = recorder
        self._node_id = node_id
        self._clock = clock
        # Applied once, and when; and applied for good.
        self._once: dict[int, float] = {}
        self._done: dict[int, None] = {}

    def apply(self, request: CloseRequest) -> int:
        """End what a request names, if it is due; return how many that were."""
        if request.pk in self._done:
            return 0
        first_at = self._once.pop(request.pk, None)
        if first_at is None:
            self._once[request.pk] = now = self._clock()
            return self._end_matching(request, arrived_by=now)
        self._done[request.pk] = None
        if len(self._done) > _REMEMBERED_REQUESTS:
            del self._done[next(iter(self._done))]
        return self._end_matching(request, arrived_by=first_at)

    def _end_matching(self, request: CloseRequest, *, arrived_by: float) -> int:
        ending = ENDINGS.get(request.reason, close_codes.KICKED)
        now = self._clock()
        latest = request.created_at + _CLOCK_TOLERANCE
        count = 0
        for connection in self._hub.select(
            request.target, request.value, self._node_id
        ):
            if connection.arrived > arrived_by or connection.opened_at > latest:
                continue
            idle_seconds = request.idle_seconds
            if idle_seconds and connection.idle_seconds(now) < idle_seconds:
                # The row is behind: write the true time, so that the sweeper
                # does not ask again and again.
                if self._recorder is not None:
                    self._recorder.note_change(connection)
                continue
            count += connection.end(ending)
        return count
