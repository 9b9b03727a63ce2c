"""Make the channel of each TCP connection."""

from typing import Any

from twisted.internet.protocol import ServerFactory

from connections.server.compat import DaphneFactory
from connections.server.http import HttpChannel
from connections.server.request import HttpRequest


class HttpFactory(DaphneFactory):
    """Makes a channel for each TCP connection."""

    protocol = HttpChannel

    def buildProtocol(self, addr: Any) -> HttpChannel:
        channel: HttpChannel = ServerFactory.buildProtocol(self, addr)
        channel.callLater = self.reactor.callLater
        channel.requestFactory = HttpRequest
        return channel

    def log(self, request: HttpRequest) -> None:
        """Write nothing: Twisted's access log would hold queries."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]
