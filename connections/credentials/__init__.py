"""
The credential backends, and what a backend of a project needs.

The names are imported when they are first read: some need Django's models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connections.credentials.backends import CredentialBackend
    from connections.credentials.builtin import (
        AccessTokens,
        JsonWebTokens,
        Sessions,
        Tickets,
    )
    from connections.credentials.identity import Credential
    from connections.credentials.rest_framework import RestFramework
    from connections.credentials.scope_user import ScopeUser
    from connections.credentials.signed_cookie import SignedCookie
    from connections.exceptions import Refused, WrongCredential

__all__ = (
    "AccessTokens",
    "Credential",
    "CredentialBackend",
    "JsonWebTokens",
    "Refused",
    "RestFramework",
    "ScopeUser",
    "Sessions",
    "SignedCookie",
    "Tickets",
    "WrongCredential",
)

_MODULES = {
    "AccessTokens": "connections.credentials.builtin",
    "Credential": "connections.credentials.identity",
    "CredentialBackend": "connections.credentials.backends",
    "JsonWebTokens": "connections.credentials.builtin",
    "Refused": "connections.exceptions",
    "RestFramework": "connections.credentials.rest_framework",
    "ScopeUser": "connections.credentials.scope_user",
    "Sessions": "connections.credentials.builtin",
    "SignedCookie": "connections.credentials.signed_cookie",
    "Tickets": "connections.credentials.builtin",
    "WrongCredential": "connections.exceptions",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
