"""The backend of a signed cookie, for projects without sessions."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from connections.asgi import Message
from connections.credentials.channels_scope import parse_cookies
from connections.credentials.identity import Credential, name_user
from connections.credentials.sessions import find_password_hash, is_password_hash
from connections.models.user_key import get_users


class SignedCookie:
    """
    A cookie that a view of the project has signed with SECRET_KEY.

    The view calls set_cookie(response, user). A subclass may change `cookie_name`,
    `salt` and `max_age_seconds`, or read a cookie of another form in find_user(). A
    new password of the user makes the cookie invalid.
    """

    cookie_name = "websocket_user"
    salt = "connections.credentials.SignedCookie"
    max_age_seconds = 1_209_600

    def is_explicit(self, scope: Message) -> bool:
        """Return False, because browsers send the cookie by themselves."""
        return False

    def set_cookie(self, response: HttpResponse, user: Any) -> None:
        """Set the cookie of a user, with the attributes of the session cookie."""
        key = user._meta.pk.value_to_string(user)
        response.set_signed_cookie(
            self.cookie_name,
            f"{key}.{find_password_hash(user)}",
            salt=self.salt,
            max_age=self.max_age_seconds,
            domain=settings.SESSION_COOKIE_DOMAIN,
            path=settings.SESSION_COOKIE_PATH,
            secure=settings.SESSION_COOKIE_SECURE or False,
            httponly=True,
            samesite=settings.SESSION_COOKIE_SAMESITE or None,
        )

    async def authenticate(self, scope: Message) -> Credential | None:
        """Return the credential of the cookie; None without a valid one."""
        request = HttpRequest()
        request.COOKIES = parse_cookies(scope["headers"])
        value = request.get_signed_cookie(
            self.cookie_name, None, salt=self.salt, max_age=self.max_age_seconds
        )
        if value is None:
            return None
        user = await scope["node"].database.read_foreign(self.find_user, value)
        if user is None:
            return None
        # The form is that of TimestampSigner: value, moment and signature.
        text = request.COOKIES[self.cookie_name]
        signed_at = signing.b62_decode(text.rsplit(":", 2)[1])
        lifetime = timedelta(seconds=self.max_age_seconds)
        return Credential(
            client_id=name_user(user),
            user=user,
            expires_at=datetime.fromtimestamp(signed_at, UTC) + lifetime,
        )

    def find_user(self, value: str) -> Any:
        """Return the user that a signed value names, or None; reads the database."""
        key, _, known = value.rpartition(".")
        try:
            user = get_users().get(pk=key)
        except (get_user_model().DoesNotExist, ValidationError, ValueError):
            return None
        return user if is_password_hash(known, user) else None
