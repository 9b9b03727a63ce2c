"""Serve an echo, for trying connections by hand."""

from connections.consumers import LimitedConsumer


class EchoConsumer(LimitedConsumer):
    """Sends every message back unchanged, text as text and bytes as bytes."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)
