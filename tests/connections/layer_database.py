"""A PostgreSQL database with the channel layer alone, and the layers of nodes in it."""

from typing import Any

import psycopg

from connections.layers.postgres import PostgresLayer
from connections.storage.database import Database
from connections.testing.waiting import scale
from tests.connections.pool_database import SCRIPT as POOL_SCRIPT
from tests.connections.pool_database import ForeignDatabase
from tests.integration.services import PostgresProcess
from tests.project import ROOT

SCRIPT = ROOT / "connections" / "layers" / "scripts" / "postgres_1.sql"


class LayerOfServer(PostgresLayer):
    """A layer on a database other than that of the tests."""

    def __init__(self, port: int, name: str, **options: Any) -> None:
        super().__init__(**options)
        self._port = port
        self._name = name

    def make_database(self) -> Database:
        return ForeignDatabase(self._port, self._name)


class LayerDatabase:
    """One database of a server, with the tables and functions of the layer."""

    def __init__(self, server: PostgresProcess, name: str) -> None:
        self.server = server
        self.name = name
        server.create_database(name)
        with self.connect() as connection:
            connection.execute(POOL_SCRIPT.read_bytes())
            connection.execute(SCRIPT.read_bytes())

    def connect(self) -> psycopg.Connection:
        return self.server.connect(self.name)

    def make_layer(self, *, port: int = 0, **options: Any) -> PostgresLayer:
        """Return the layer of a node; a port is that of a proxy or a pooler."""
        options = {
            "listen_url": self.server.url(self.name),
            "timeout_seconds": scale(20),
            **options,
        }
        return LayerOfServer(port or self.server.port, self.name, **options)
