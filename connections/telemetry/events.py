"""Describe handled events and their connections for spans and Sentry."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.utils.crypto import salted_hmac

from connections.asgi import Message
from connections.close_codes import get_reason
from connections.config.loader import get_config
from connections.telemetry.carrier import TRACEPARENT, read, read_message

if TYPE_CHECKING:
    from connections.hub.connection import LiveConnection

_SALT = "connections.telemetry"
_LONGEST_KIND = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The facts about a connection that its events share."""

    connection: "LiveConnection"
    node_id: str
    client_name: str
    """The id of the client, its pseudonym, or "", as telemetry.clients says."""


@dataclass(slots=True, kw_only=True)
class Event:
    """An event of one connection; `message` is that of ASGI or of the layer."""

    message: Message
    kind: str = field(init=False)
    is_of_client: bool = field(init=False)
    is_of_layer: bool = field(init=False)
    traceparent: str = field(init=False)
    """The context of its sender, or ""."""

    ids: tuple[str, str] | None = None
    """The ids of the trace and the span of an event that is sampled."""

    def __post_init__(self) -> None:
        self.kind = str(self.message.get("type"))[:_LONGEST_KIND]
        self.is_of_client = self.kind == "websocket.receive"
        self.is_of_layer = not self.kind.startswith("websocket.")
        # A client names its context in its message, a sender to the layer beside it.
        if self.is_of_client:
            self.traceparent = read_message(self.message)
        else:
            self.traceparent = read(self.message.pop(TRACEPARENT, ""))


def find_close_reason(event: Event, watched: Watched) -> str:
    """Return the reason of an end that has begun, also by the client; else ""."""
    close_reason = watched.connection.close_reason
    if close_reason is not None:
        return close_reason.reason
    if event.kind != "websocket.disconnect":
        return ""
    return get_reason(event.message.get("code"))


def name_client(client_id: str) -> str:
    """Return the name of a client for other tools, as telemetry.clients says."""
    names = get_config().telemetry.clients
    if names == "pseudonym":
        return make_pseudonym(client_id)
    return client_id if names == "id" else ""


def make_pseudonym(client_id: str) -> str:
    """Return what stands for a client; it takes SECRET_KEY to compute."""
    return salted_hmac(_SALT, client_id, algorithm="sha256").hexdigest()[:16]
