from typing import Any

from connections.server.compat import DaphneRunserver
from connections.server.server import Server


class Command(DaphneRunserver):
    """Run daphne's runserver with the Server of this project."""

    server_cls: Any = Server
