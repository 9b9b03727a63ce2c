"""Report that the application of one connection has ended."""

import asyncio
from typing import Any, Protocol


class Server(Protocol):
    """The part of a server that learns of the end."""

    def application_ended(self, protocol: Any, task: asyncio.Task[None]) -> None:
        """Handle the end of a connection's application."""


class ApplicationEnd:
    """
    A callback of an application's task, with the protocol of its connection.

    A functools.partial of a bound method takes 200 bytes more for each connection.
    """

    __slots__ = ("_protocol", "_server")

    def __init__(self, server: Server, protocol: Any) -> None:
        self._server = server
        self._protocol = protocol

    def __call__(self, task: asyncio.Task[None]) -> None:
        self._server.application_ended(self._protocol, task)
