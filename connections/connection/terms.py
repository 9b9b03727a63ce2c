"""Read the client, the limits and the requirements that a consumer gives."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connections.asgi import Message
from connections.config.loader import WebSocketConfig
from connections.connection.failures import FAILURES, ends_task
from connections.credentials.identity import Credential
from connections.credentials.requirements import NO_REQUIREMENTS, Requirements
from connections.credentials.sessions import find_user_credential
from connections.limits import Limits


class Consumer(Protocol):
    """The part of a consumer that decides about its connection."""

    permission_required: str | Sequence[str]
    groups_required: str | Sequence[str]

    def get_client_id(self, scope: Message) -> str | None:
        """Return the client that the connection belongs to."""

    def get_limits(self, scope: Message) -> Any:
        """Return the limits of the connection, or an awaitable of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """
    The client, its credential, the limits and the requirements of one connection.

    With a failure they are defaults, and the connection is refused for it.
    """

    limits: Limits
    client_id: str | None = None
    credential: Credential | None = None
    requirements: Requirements = NO_REQUIREMENTS
    failure: BaseException | None = None


async def read_terms(
    consumer: Consumer, scope: Message, config: WebSocketConfig
) -> Terms:
    """Return the terms of a consumer; what it raises becomes their failure."""
    try:
        limits = consumer.get_limits(scope)
        if inspect.isawaitable(limits):
            limits = await limits
        if not isinstance(limits, Limits):
            raise _wrong_result(consumer, "get_limits", limits, "a Limits object")
        client_id = consumer.get_client_id(scope)
        if not isinstance(client_id, str | None):
            raise _wrong_result(consumer, "get_client_id", client_id, "a str or None")
        return Terms(
            limits=limits,
            client_id=client_id,
            credential=_find_credential(scope),
            requirements=Requirements.read(
                consumer.permission_required, consumer.groups_required
            ),
        )
    except FAILURES as exc:
        if ends_task(exc):
            raise
        return Terms(limits=Limits.configured(config), failure=exc)


def _find_credential(scope: Message) -> Credential | None:
    """Return the credential of a scope, or that of its user in place of an address."""
    credential: Credential | None = scope.get("credential")
    if credential is not None and not credential.is_anonymous:
        return credential
    return find_user_credential(scope) or credential


def _wrong_result(
    consumer: Consumer, method: str, result: object, allowed: str
) -> TypeError:
    name = type(consumer).__name__
    kind = type(result).__name__
    return TypeError(f"{name}.{method}() returned {kind}; it must return {allowed}")
