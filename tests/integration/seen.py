"""Read the events that tests.integration.applications recorded."""

from connections.testing import LiveServer, RawClient


async def read_seen(server: LiveServer) -> str:
    """Return the recorded events, one a line."""
    client = await RawClient.connect(server.port)
    await client.send(b"GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return (await client.read_end()).decode()
