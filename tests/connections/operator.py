"""A script that uses the operators' API with an access token of its own."""

import json
from typing import Any

from channels.db import database_sync_to_async as in_database
from django.test import AsyncClient

from connections.credentials.tokens import create_access_token
from connections.models import AccessToken
from tests.connections.dashboard_pages import make_staff

ROOT = "/api/v1/"
READ = "api:read"


class Operator:
    """One user with permissions, and a token with scopes."""

    def __init__(self, user: Any, token: str, row: AccessToken) -> None:
        self.user = user
        self.token = token
        self.row = row

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        """Send a request; a body that is no bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await AsyncClient(raise_request_exception=False).generic(
            method,
            f"{ROOT}{path}",
            b"" if body is None else raw,
            content_type,
            headers={"authorization": f"Bearer {self.token}", **headers},
        )

    async def get(self, path: str, status: int = 200) -> Any:
        """Return the answer to GET, which has a status."""
        response = await self.send("GET", path)
        assert response.status_code == status, response.content
        return response.json()

    async def post(self, path: str, status: int, **body: Any) -> Any:
        """Return the answer to POST, which has a status."""
        response = await self.send("POST", path, body)
        assert response.status_code == status, response.content
        return response.json()

    async def refused(self, path: str, status: int, **body: Any) -> str:
        """Return the code of the error of a POST."""
        content = await self.post(path, status, **body)
        return get_code(content)


def get_code(content: Any) -> str:
    """Return the code of an error, which has a sentence."""
    error = content["error"]
    assert set(error) == {"code", "message"}
    assert error["message"].endswith(".")
    return str(error["code"])


async def make_operator(
    *permissions: str, scopes: tuple[str, ...] = (READ,), **token: Any
) -> Operator:
    """Create the user `operator` and its token."""

    def create() -> Operator:
        user = make_staff("operator", *permissions)
        value, row = create_access_token("script", user=user, scopes=scopes, **token)
        return Operator(user, value, row)

    operator: Operator = await in_database(create)()
    return operator
