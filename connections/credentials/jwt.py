"""
Verify JSON Web Tokens of an identity provider (RFC 7519, RFC 8725).

This module is imported only if JWTs are configured.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt
from django.contrib.auth import get_user_model

from connections import close_codes
from connections.config.auth_sections import JwtConfig
from connections.credentials.identity import Credential, name_user
from connections.credentials.jwt_keys import KeyRing
from connections.exceptions import Refused, WrongCredential
from connections.models.user_key import find_by_login_name
from connections.storage.text import is_storable

logger = logging.getLogger(__name__)

_MOST_CHARACTERS = 16_384

Claims = Mapping[str, Any]


class JwtVerifier:
    """
    Verifies the signature and claims of JWTs.

    The key sets the algorithm, so that the header of a token cannot choose
    another, or `none` (RFC 8725, section 3.1). Keys inside a token, or at a URL
    in it, are ignored.
    """

    def __init__(self, config: JwtConfig, keys: KeyRing) -> None:
        self.keys = keys
        self._config = config

    async def verify(self, token: str) -> Claims:
        """
        Return the claims of a token.

        Raises:
            Refused: the token is not valid or has expired, or the keys are missing.
        """
        if len(token) > _MOST_CHARACTERS or not token.isascii():
            raise WrongCredential(close_codes.UNAUTHENTICATED)
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:
                # RFC 7515, section 4.1.11: refuse unknown critical headers.
                raise jwt.InvalidTokenError("crit")
            key = await self.keys.find(header.get("kid"))
            return self._decode(token, key.verifying_key, key.algorithm)
        except jwt.ExpiredSignatureError as exc:
            raise Refused(close_codes.TOKEN_EXPIRED) from exc
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as exc:
            # The text of the exception may contain parts of the token.
            logger.info(
                "A JWT was refused: %s",
                type(exc).__name__,
                extra={"event": "jwt_refused"},
            )
            raise WrongCredential(close_codes.UNAUTHENTICATED) from None

    def make_credential(self, claims: Claims) -> Credential:
        """
        Return the credential for claims; reads the database if user_claim is set.

        Raises:
            Refused: the user of the claims is missing or not active.
        """
        user = None
        client_id = f"jwt:{claims[self._config.client_claim]}"
        if self._config.user_claim:
            user = _find_user(claims.get(self._config.user_claim))
            client_id = name_user(user)
        return Credential(
            client_id=client_id,
            user=user,
            expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
            claims=claims,
            jti=claims.get("jti", ""),
        )

    @property
    def needs_database(self) -> bool:
        """True if make_credential() reads the database."""
        return bool(self._config.user_claim)

    def _decode(self, token: str, key: Any, algorithm: str) -> Claims:
        config = self._config
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=config.issuer,
            audience=config.audience,
            leeway=config.leeway_seconds,
            options={"require": ["exp", "iss", "aud", config.client_claim]},
        )
        client = claims[config.client_claim]
        if not isinstance(client, str | int) or isinstance(client, bool) or not client:
            raise jwt.InvalidTokenError(config.client_claim)
        if not is_storable(str(client)):
            raise jwt.InvalidTokenError(config.client_claim)
        # Raises OverflowError or ValueError beyond the calendar.
        datetime.fromtimestamp(int(claims["exp"]), UTC)
        return claims


def _find_user(name: Any) -> Any:
    users = get_user_model()
    if not isinstance(name, str) or not name or not is_storable(name):
        raise Refused(close_codes.UNAUTHENTICATED)
    try:
        user = find_by_login_name(name)
    except users.DoesNotExist as exc:
        raise Refused(close_codes.UNAUTHENTICATED) from exc
    if not user.is_active:
        raise Refused(close_codes.DEACTIVATED)
    return user
