"""Clients that wait for the question of a tool call, and for the end of its answer."""

from typing import Any

from connections.client import Entry, SessionClient
from connections.testing import LiveServer, wait_until


def find_call(
    client: SessionClient, offset: int = 2, part_id: str = ""
) -> dict[str, Any]:
    """Return the first tool call of an answer, or one; empty before it is there."""
    for entry in client.entries:
        if entry.offset == offset:
            for part in entry.parts:
                if part["type"] == "tool_call" and part_id in ("", part["id"]):
                    return part
    return {}


def find(client: SessionClient, offset: int) -> Entry | None:
    return next((one for one in client.entries if one.offset == offset), None)


def make_client(server: LiveServer, token: str, session: str = "new") -> SessionClient:
    url = f"{server.ws_url}/ws/sessions/"
    return SessionClient(url, token=token, session=session)


async def wait_for_question(
    client: SessionClient, offset: int = 2, part_id: str = ""
) -> None:
    def is_asked() -> bool:
        call = find_call(client, offset, part_id)
        return call.get("state") == "awaiting_approval"

    await wait_until(is_asked)


async def wait_for_end(client: SessionClient, offset: int) -> Entry:
    def has_ended() -> Entry | None:
        entry = find(client, offset)
        return entry if entry is not None and not entry.is_streaming else None

    ended: Entry = await wait_until(has_ended)
    return ended
