"""Load the backends of `credential_backends`, and check them."""

import inspect
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, runtime_checkable

from django.utils.module_loading import import_string

from connections.asgi import Message
from connections.config.fields import Problem
from connections.credentials.identity import Credential
from connections.exceptions import ConfigError

_PATH = "websocket.credential_backends"
_ALLOWED = "a class with `async def authenticate(self, scope)`"


@runtime_checkable
class CredentialBackend(Protocol):
    """
    Finds the client of a handshake; a project may have backends of its own.

    The class takes no arguments. One object serves all handshakes of a node. Two
    more methods are optional.

    `async may_stay(credentials)` gets credentials that the backend returned, of
    open connections, at least every reauthorise_seconds. It returns the set of
    those that are still valid; the connections of the others close with 4009
    `revoked`. Without it the connection of a user also ends when the user's
    password changes.

    `is_explicit(scope)` returns True if a handshake brings a credential that no
    browser adds by itself. Only such handshakes are slowed after too many wrong
    credentials, and they need no Origin. Without it each handshake is slowed, and
    needs an Origin or an Authorization header.
    """

    async def authenticate(self, scope: Message) -> Credential | None:
        """
        Return the credential of a handshake, or None if it brings none.

        Raises:
            WrongCredential: it brings one that nobody issued.
            Refused: it is refused for another reason.
        """


def load_backend(path: str) -> CredentialBackend:
    """
    Return a new backend.

    Raises:
        ConfigError: it cannot be imported or created, or lacks authenticate().
    """
    problem, backend = _try(path)
    if problem is not None:
        raise ConfigError("the credential backends", [problem])
    loaded: CredentialBackend = backend
    return loaded


def find_backend_problems(paths: Sequence[str]) -> list[Problem]:
    """Return the problems of backends, each with its path."""
    return [one for one, _ in map(_try, paths) if one is not None]


def require_valid_backends(paths: Sequence[str]) -> None:
    """
    Check that all backends can be used.

    Raises:
        ConfigError: some cannot; all are named.
    """
    problems = find_backend_problems(paths)
    if problems:
        raise ConfigError("the credential backends", problems)


def check_credential(credential: object) -> Credential:
    """
    Return the credential that a backend returned.

    Raises:
        TypeError, ValueError: the node cannot use it.
    """
    if not isinstance(credential, Credential):
        kind = type(credential).__name__
        raise TypeError(f"authenticate() returned {kind}, not a Credential or None")
    client_id, expires_at = credential.client_id, credential.expires_at
    if not isinstance(client_id, str) or not client_id:
        raise TypeError(f"client_id is {client_id!r}, not a text")
    if expires_at is not None and expires_at.utcoffset() is None:
        raise ValueError("expires_at has no time zone")
    return credential


def check_staying(
    staying: object, credentials: Collection[Credential]
) -> AbstractSet[Credential]:
    """
    Return the credentials that may_stay() returned.

    Raises:
        TypeError: it returned something else, which would end valid connections.
    """
    if not isinstance(staying, AbstractSet) or not staying <= set(credentials):
        kind = type(staying).__name__
        raise TypeError(f"may_stay() returned {kind}, not a set of its credentials")
    return staying


def _try(path: str) -> tuple[Problem | None, Any]:
    """Return the problem of a backend and None, or None and the backend."""
    try:
        found = import_string(path)
    except Exception as exc:
        text = f"{path} ({type(exc).__name__}: {exc})"
        return Problem(_PATH, text, "dotted paths that can be imported"), None
    if not isinstance(found, type):
        return Problem(_PATH, f"{path} (no class)", _ALLOWED), None
    method = getattr(found, "authenticate", None)
    if method is None:
        return Problem(_PATH, f"{path} (without authenticate())", _ALLOWED), None
    for name in ("authenticate", "may_stay"):
        method = getattr(found, name, None)
        if method is not None and not inspect.iscoroutinefunction(method):
            text, allowed = f"{path} ({name}() is not async)", f"async def {name}()"
            return Problem(_PATH, text, allowed), None
    try:
        return None, found()
    except Exception as exc:
        text = f"{path} ({type(exc).__name__}: {exc})"
        return Problem(_PATH, text, "a class that can be created"), None
