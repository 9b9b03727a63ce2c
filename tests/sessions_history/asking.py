"""Requests about sessions over HTTP, for several test modules."""

import json
from datetime import timedelta
from typing import Any

from channels.db import database_sync_to_async as in_database
from django.test import AsyncClient
from django.utils import timezone

from connections.credentials.tokens import create_access_token
from sessions_history.models import HistoryEntry, Session
from sessions_history.session_ids import make_session_id
from tests.sessions_history.session_document import check_answer

ROOT = "/api/sessions/"
PAGE = "https://app.example.com"


async def bearer(client_id: str = "alice", **values: Any) -> dict[str, Any]:
    token, _ = await in_database(create_access_token)(client_id, **values)
    return {"authorization": f"Bearer {token}"}


async def ask(
    method: str,
    path: str = "",
    body: Any = None,
    client: AsyncClient | None = None,
    **headers: str,
) -> Any:
    """Send a request; it and its answer are as the OpenAPI document has them."""
    client = client or AsyncClient(enforce_csrf_checks=True)
    content = b"" if body is None else json.dumps(body).encode()
    url = f"{ROOT}{path}"
    response = await client.generic(
        method, url, content, "application/json", headers=headers
    )
    check_answer(method, url, content, response)
    return response


def read_error(response: Any, status: int) -> str:
    """Return the code of an error, which has a sentence."""
    assert response.status_code == status, response.content
    error = response.json()["error"]
    message = error["message"]
    assert message.endswith(".") and not message.endswith("..")
    # Docstrings name attributes so.
    assert "`" not in message
    return str(error["code"])


async def add_session(
    client_id: str = "alice", minutes: int = 0, entries: int = 0
) -> str:
    """Insert a session that was used so many minutes ago."""
    session = await Session.objects.acreate(
        session_id=make_session_id(client_id),
        client_id=client_id,
        epoch="e1",
        last_offset=entries,
        last_seen_at=timezone.now() - timedelta(minutes=minutes),
    )
    for offset in range(1, entries + 1):
        await HistoryEntry.objects.acreate(
            session=session,
            offset=offset,
            kind="message",
            sender="client",
            data=json.dumps({"n": offset}),
        )
    return session.pk
