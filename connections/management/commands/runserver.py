from typing import Any

from daphne.management.commands.runserver import Command as DaphneCommand

from connections.server.server import Server


class Command(DaphneCommand):
    """daphne's runserver, with our Server in the place of its own."""

    server_cls: Any = Server
