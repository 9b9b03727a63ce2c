"""Credential backends of a project, for the tests."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from django.contrib.auth.models import User

from connections.credentials import Credential, WrongCredential
from connections.credentials.handshake import find_bearer
from connections.exceptions import DatabaseUnavailable
from connections.units import utc_now

PLACE = __name__


def read_header(scope: Any) -> str:
    """Return what a handshake brings to the backends of this module."""
    for name, value in scope["headers"]:
        if name == b"x-key":
            return str(value.decode())
    return ""


class Keys:
    """Admits the user that a header names; `wrong` is a wrong credential."""

    async def authenticate(self, scope: Any) -> Credential | None:
        name = read_header(scope)
        if not name:
            return None
        if name == "wrong":
            raise WrongCredential()
        user = await User.objects.filter(username=name).afirst()
        if user is None:
            return None
        return Credential(client_id=f"key:{name}", user=user)


class Nobody:
    """Finds nobody."""

    async def authenticate(self, scope: Any) -> Credential | None:
        return None


class Bearers:
    """Admits everybody with a bearer token, as a user that is no row of a table."""

    async def authenticate(self, scope: Any) -> Credential | None:
        token = find_bearer(scope)
        if token is None:
            return None
        name = token.partition("-")[0]
        user = SimpleNamespace(pk=7, is_authenticated=True, get_username=lambda: name)
        return Credential(client_id=name, user=user)


class Guests:
    """Admits everybody as a guest, without a user."""

    async def authenticate(self, scope: Any) -> Credential | None:
        return Credential(client_id=f"guest:{read_header(scope)}")


class Valid(Guests):
    """Guests whose credentials the test takes away, or makes the answer fail."""

    revoked: set[str] = set()
    failure: Any = None
    asked: list[int] = []

    async def may_stay(self, credentials: Any) -> Any:
        self.asked.append(len(credentials))
        if self.failure is not None:
            return await self.failure(credentials)
        return {one for one in credentials if one.client_id not in self.revoked}


class ValidKeys(Keys, Valid):
    """The users of Keys, with the recheck of Valid."""


class Failing:
    """Fails as its header says."""

    async def authenticate(self, scope: Any) -> Any:
        kind = read_header(scope)
        if kind == "raises":
            raise KeyError("planted")
        if kind == "hangs":
            await asyncio.Event().wait()
        if kind == "is cancelled":
            raise asyncio.CancelledError
        if kind == "outage":
            raise DatabaseUnavailable("planted")
        if kind == "naive":
            end = utc_now().replace(tzinfo=None)
            return Credential(client_id="alice", expires_at=end)
        if kind == "expired":
            end = utc_now() - timedelta(seconds=1)
            return Credential(client_id="alice", expires_at=end)
        if kind == "inactive":
            return Credential(client_id="alice", user=User(pk=7, is_active=False))
        wrong: dict[str, Any] = {
            "user": User(username="alice"),
            "text": "alice",
            "true": True,
            "no client": Credential(client_id=""),
            "client of another type": Credential(client_id=7),  # type: ignore[arg-type]
        }
        return wrong[kind]


class WithoutAuthenticate:
    pass


class Synchronous:
    def authenticate(self, scope: Any) -> None:
        return None


class SynchronousRecheck(Nobody):
    def may_stay(self, credentials: Any) -> Any:
        return set(credentials)


class Uncreatable(Nobody):
    def __init__(self) -> None:
        raise RuntimeError("planted")


def function(scope: Any) -> None:
    return None
