"""The contract between the mailboxes of an event loop and what carries messages."""

from typing import Protocol


class Transport(Protocol):
    """Carries messages between the processes that share a channel layer."""

    def has(self, name: str) -> bool:
        """Return whether a channel or group is, or is to be, subscribed to."""

    def carries(self, name: str) -> bool:
        """Return whether a message to a channel or group arrives here now."""

    async def subscribe(self, name: str) -> None:
        """Subscribe, now or as soon as the server is there."""

    async def unsubscribe(self, name: str) -> None:
        """Unsubscribe, now."""

    def unsubscribe_soon(self, name: str) -> None:
        """Unsubscribe in the background, unless it is received again by then."""

    async def publish(self, name: str, payload: bytes) -> bool:
        """Send a message; return False, and count it, if the server is away."""

    async def flush(self) -> None:
        """Close the connections; they are opened again when they are needed."""


class Receiver(Protocol):
    """The mailboxes of one event loop."""

    def is_received(self, name: str) -> bool:
        """Return whether a channel, or a member of a group, is read here."""

    def deliver(self, name: str, payload: bytes) -> None:
        """Put a message into the mailboxes of a channel or group."""

    def on_return(self, transport: Transport) -> None:
        """Take notice of new subscriptions: messages before them are lost."""
