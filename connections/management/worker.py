"""Connect a server of `serve --workers` to its parent."""

from typing import Any

from prometheus_client import REGISTRY

from connections.metrics.merging import describe_families
from connections.node.current import get_node
from connections.node.group import join_group
from connections.node.health import READINESS, describe_health
from connections.pool.parent import join_pool
from connections.server.server import Server
from connections.views.series import describe_series
from connections.workers.assignment import Assignment
from connections.workers.link import WorkerLink


def join_parent(server: Server, assignment: Assignment) -> None:
    """Have a server follow its parent, from the moment its event loop runs."""
    from twisted.internet import reactor

    def report_health() -> Any:
        _, content = describe_health(get_node(), READINESS, is_observer=True)
        return content

    link = WorkerLink(
        assignment.channel_fd,
        {
            "health": report_health,
            "metrics": lambda: describe_families(REGISTRY.collect()),
        },
    )
    join_group(link)
    join_pool(link, assignment.pool)

    def begin() -> None:
        server.tasks.start(link.run(server), "The line to the parent")

    def finish() -> None:
        if server.node is not None:
            link.finish(describe_families(describe_series(server.node)))

    twisted_reactor: Any = reactor
    # Not before: the loop also runs while the server prepares, and the worker would
    # be called ready before it listens and takes signals.
    twisted_reactor.callWhenRunning(twisted_reactor.callLater, 0, begin)
    # After the drain, which is a trigger before the shutdown.
    twisted_reactor.addSystemEventTrigger("during", "shutdown", finish)
