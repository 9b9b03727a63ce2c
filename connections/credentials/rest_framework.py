"""The backend of authentication classes of Django REST framework."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.db import models, router

from connections import close_codes
from connections.asgi import Message
from connections.credentials.handshake import find_bearer, has_own_credential
from connections.credentials.identity import Credential, name_user
from connections.credentials.sessions import find_password_hash
from connections.exceptions import Refused, WrongCredential
from connections.units import as_utc, utc_now


class RestFramework:
    """
    The authentication classes of Django REST framework, asked as by one of its views.

    They are those of REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"], or the
    `authentication_classes` of a subclass: TokenAuthentication, and those of Simple
    JWT and of knox. A browser sends its token as the subprotocol `bearer.<token>`;
    each class gets it as an Authorization header with its own keyword. A connection
    ends at the expiry of its token, and when the row of its token is deleted.
    """

    authentication_classes: Sequence[type[Any]] = ()

    def __init__(self) -> None:
        try:
            from rest_framework.settings import api_settings
        except ImportError as exc:
            raise ImproperlyConfigured(
                "Django REST framework is missing: pip install djangorestframework"
            ) from exc
        if not self.authentication_classes:
            self.authentication_classes = api_settings.DEFAULT_AUTHENTICATION_CLASSES
        if not self.authentication_classes:
            raise ImproperlyConfigured(
                "neither REST_FRAMEWORK['DEFAULT_AUTHENTICATION_CLASSES'] nor "
                "authentication_classes names a class"
            )

    def is_explicit(self, scope: Message) -> bool:
        """Return True if a handshake brings a credential that no browser adds."""
        return has_own_credential(scope)

    async def authenticate(self, scope: Message) -> Credential | None:
        """Return the credential of the first class that finds a user."""
        found: Credential | None
        found = await scope["node"].database.read_foreign(self._find, scope)
        return found

    async def may_stay(self, credentials: Sequence[Credential]) -> set[Credential]:
        """
        Return the credentials whose token is in the database, or has no row.

        knox deletes the row of a token that has expired. The node ends such a
        connection itself, unless `expiry` is observed.
        """
        now = utc_now()
        with_row = [one for one in credentials if one.state is not None]
        staying = {one for one in credentials if one.state is None}
        for model in {one.state[0] for one in with_row}:
            asked = [one for one in with_row if one.state[0] is model]
            rows = model._base_manager.using(router.db_for_write(model))
            found = rows.filter(pk__in=[one.state[1] for one in asked])
            present = {key async for key in found.values_list("pk", flat=True)}
            staying |= {
                one
                for one in asked
                if one.state[1] in present
                or (one.expires_at is not None and one.expires_at <= now)
            }
        return staying

    def _find(self, scope: Message) -> Credential | None:
        from rest_framework.exceptions import AuthenticationFailed, PermissionDenied

        bearer = find_bearer(scope)
        failure: Exception | None = None
        for kind in self.authentication_classes:
            authentication = kind()
            request = _make_request(scope, authentication, bearer)
            try:
                found = authentication.authenticate(request)
            except AuthenticationFailed as exc:
                failure = exc
                if bearer is None:
                    break  # The header names the class that it is for.
            except PermissionDenied as exc:
                raise Refused(close_codes.FORBIDDEN) from exc
            else:
                if found is not None and found[0].is_authenticated:
                    return _make_credential(*found)
        if failure is None:
            return None
        if bearer is not None and _has_expired(bearer):
            raise Refused(close_codes.TOKEN_EXPIRED) from failure
        raise WrongCredential from failure


def _make_request(scope: Message, authentication: Any, bearer: str | None) -> Any:
    """Return the request of a view for a handshake, with the keyword of a class."""
    from rest_framework.request import Request

    headers = list(scope["headers"])
    if bearer is not None:
        bare = {**scope, "type": "http", "method": "GET", "headers": headers}
        asked = Request(ASGIRequest(bare, BytesIO()))
        challenge = authentication.authenticate_header(asked) or "Bearer"
        headers = [one for one in headers if one[0] != b"authorization"]
        keyword = challenge.split(" ")[0]
        headers.append((b"authorization", f"{keyword} {bearer}".encode()))
    scheme = "https" if scope.get("scheme") == "wss" else "http"
    whole = {**scope, "type": "http", "method": "GET", "scheme": scheme}
    return Request(ASGIRequest({**whole, "headers": headers}, BytesIO()))


def _make_credential(user: Any, auth: Any) -> Credential:
    has_row = isinstance(auth, models.Model) and auth.pk is not None
    return Credential(
        client_id=name_user(user),
        user=user,
        expires_at=_find_expiry(auth),
        password_hash=find_password_hash(user),
        state=(type(auth), auth.pk) if has_row else None,
    )


def _find_expiry(auth: Any) -> datetime | None:
    """Return the end of a token: that of knox, of OAuth Toolkit, or of a JWT."""
    for name in ("expiry", "expires"):
        moment = getattr(auth, name, None)
        if isinstance(moment, datetime):
            return as_utc(moment)
    payload = getattr(auth, "payload", None)
    if isinstance(payload, Mapping) and "exp" in payload:
        return datetime.fromtimestamp(int(payload["exp"]), UTC)
    return None


def _has_expired(token: str) -> bool:
    """
    Return True if a token has the form of a JWT whose time is over.

    Its signature is not checked, because it is refused in any case: the answer
    only tells the client to fetch another one.
    """
    try:
        part = token.split(".")[1]
        payload = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return bool(payload["exp"] <= utc_now().timestamp())
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return False
