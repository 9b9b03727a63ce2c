"""Two nodes that share PostgreSQL and Redis, each of either release."""

from pathlib import Path

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.integration.ports import hold_port
from tests.project import make_server

USERS = 20
CONNECTIONS_EACH = 5
"""The limit of connections per client: all 100 clients fill it."""

CONFIG: dict[str, object] = {
    "max_connections_per_client": CONNECTIONS_EACH,
    "on_client_limit": "refuse",
    "max_session_history": 1000,
    "node__beat_seconds": 0.5,
    # A slow machine pauses a node for seconds, which must cost no slot.
    "node__lease_seconds": scale(6),
    "node__node_timeout_seconds": scale(5),
    "handshake__timeout_seconds": scale(10),
    "drain__grace_seconds": scale(4),
}


class Cluster:
    """Two nodes on PostgreSQL and Redis, each of which runs either release."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self._folder = folder
        self._ports = (hold_port(self), hold_port(self))
        self._environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            # The releases must not import the modules of this tree.
            "PYTHONSAFEPATH": "1",
        }
        self.nodes: dict[int, LiveServer] = {}

    def build(self, release: Path, index: int) -> LiveServer:
        """Return a node that serves a release on the port of its index."""
        environment = {**self._environment, "PYTHONPATH": str(release)}
        return make_server(
            self._folder,
            environment=environment,
            config=CONFIG,
            port=self._ports[index],
        )

    def start(self, release: Path, index: int) -> None:
        """Start a node."""
        self.nodes[index] = self.build(release, index).start()

    def replace(self, release: Path, index: int) -> None:
        """Drain a node, and start a release in its place."""
        assert self.nodes[index].terminate() == 0
        self.start(release, index)

    def migrate(self, release: Path, *target: str) -> None:
        """Run the migrations of a release, up to all of them or to one."""
        self.build(release, 0).manage("migrate", "--verbosity", "0", *target)

    def create_tokens(self, release: Path) -> list[str]:
        """Make a token for each user, with the command of a release."""
        program = (
            "from django.core.management import call_command\n"
            f"for number in range({USERS}):\n"
            "    call_command('create_access_token', '--client', f'user{number}')"
        )
        shell = ("shell", "--verbosity", "0", "--command", program)
        return self.build(release, 0).manage(*shell).split()

    def locate(self, release: Path) -> Path:
        """Return the file of the library that a release imports."""
        program = "import connections; print(connections.__file__)"
        shell = ("shell", "--verbosity", "0", "--command", program)
        return Path(self.build(release, 0).manage(*shell))

    def stop(self) -> None:
        """End both nodes."""
        for node in self.nodes.values():
            node.stop()
