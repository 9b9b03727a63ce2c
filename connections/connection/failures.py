"""Record the exceptions of a consumer."""

import asyncio

from channels.db import aclose_old_connections
from channels.exceptions import StopConsumer
from django.db import Error as DatabaseError

from connections.asgi import Message
from connections.background import is_cancelled
from connections.error_log import get_logger
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.node.recorder import describe_error
from connections.redaction import conceal
from connections.telemetry.handshake import find_handshake

logger = get_logger(__name__)

FAILURES = (Exception, asyncio.CancelledError, SystemExit)
"""
What a handler may raise at the cost of an error.

The CancelledError of something that the handler awaited would end the connection, or
the delivery of its layer messages, without a trace. SystemExit would end the node.
"""


def ends_task(exc: BaseException) -> bool:
    """Return True for an exception that is no failure, but the end of the consumer."""
    if isinstance(exc, asyncio.CancelledError):
        return is_cancelled()
    return isinstance(exc, StopConsumer)


async def record_error(
    exc: BaseException, connection: LiveConnection, scope: Message, node: Node
) -> str:
    """Log, count and record an exception; return the id of its record."""
    connection.errors += 1
    node.counters.errors.add("internal")
    error = describe_error(exc, connection, scope)
    connection.flight.record("handler_failed", error.error_id)
    concealed = conceal(exc, scope)
    logger.error(
        "A handler failed (error %s, connection %s)",
        error.error_id,
        connection.connection_id,
        exc_info=concealed,
        extra={
            "event": "handler_failed",
            "connection_id": connection.connection_id,
            "error_id": error.error_id,
            "place": error.where,
        }
        | ({} if concealed is exc else {"exception": error.exception_class}),
    )
    handshake = find_handshake(scope)
    if handshake is not None:
        handshake.record_failure(concealed, error.error_id)
    if node.recorder is not None:
        node.recorder.record_error(error)
    if isinstance(exc, DatabaseError):
        await aclose_old_connections()
    return error.error_id
