from typing import Any

from connections.server.compat import DaphneRunserver
from connections.server.server import Server


class Command(DaphneRunserver):
    """daphne's runserver, with our Server in the place of its own."""

    server_cls: Any = Server
