"""A second node without Redis is refused, unless the first has ended."""

import os
import socket
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.exceptions import UnsharedLimits
from connections.models import Node
from connections.node.exclusivity import require_shared_limits
from connections.testing.communicators import make_config
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.django_db


def make_node(**values: Any) -> Node:
    return make_node_row(os.urandom(16).hex(), **({"host": "elsewhere"} | values))


class Waits:
    """A wait in which live nodes beat."""

    def __init__(self, *live: Node) -> None:
        self.seconds = 0.0
        self._live = [node.node_id for node in live]

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds
        Node.objects.filter(node_id__in=self._live).beat()


def test_another_live_node_is_named() -> None:
    waits = Waits(make_node(host="other", pid=7))
    with pytest.raises(UnsharedLimits, match=r"other:7.*REDIS_URL.*allow_unshared"):
        require_shared_limits(make_config(), None, wait=waits)


def test_another_live_node_on_this_host_is_found() -> None:
    waits = Waits(make_node(host=socket.gethostname(), pid=os.getppid()))
    with pytest.raises(UnsharedLimits):
        require_shared_limits(make_config(), None, wait=waits)


def test_with_redis_or_permission_no_node_is_refused() -> None:
    waits = Waits(make_node())
    require_shared_limits(make_config(), "redis://host", wait=waits)
    allowing = make_config(allow_unshared_limits=True)
    require_shared_limits(allowing, None, wait=waits)
    assert waits.seconds == 0


def test_a_killed_node_is_waited_for_three_beats() -> None:
    make_node()
    waits = Waits()
    require_shared_limits(make_config(), None, wait=waits)
    assert waits.seconds == 3


def test_a_running_node_yields_to_older_nodes_alone() -> None:
    older, newer = make_node(), make_node()
    waits = Waits(older, newer)
    require_shared_limits(make_config(), None, node_id=older.node_id, wait=waits)
    with pytest.raises(UnsharedLimits):
        require_shared_limits(make_config(), None, node_id=newer.node_id, wait=waits)
    require_shared_limits(make_config(), None, node_id="no row yet", wait=waits)


@pytest.mark.parametrize(
    "values",
    [
        # Larger than any process id (proc(5), pid_max).
        {"host": socket.gethostname(), "pid": 2**22 + 1},
        {"host": socket.gethostname(), "pid": os.getpid()},
        {"state": "draining"},
        {"state": "stopped"},
        {"state": "lost"},
        {"beat_at": timezone.now() - timedelta(seconds=60)},
    ],
)
def test_a_node_that_has_ended_is_not_waited_for(values: dict[str, Any]) -> None:
    waits = Waits(make_node(**values))
    require_shared_limits(make_config(), None, wait=waits)
    assert waits.seconds == 0
