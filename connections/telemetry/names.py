"""
Name the spans and attributes of Orchestra.

They follow the semantic conventions of OpenTelemetry where these have a name:
network, url, HTTP, messaging, exceptions, end users and SignalR.
"""

NAMESPACES = (
    "enduser.",
    "http.",
    "messaging.",
    "network.",
    "orchestra.",
    "signalr.",
    "url.",
)

CLIENT_ID = "enduser.id"
CLIENT_PSEUDONYM = "enduser.pseudo.id"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_NAME = "messaging.operation.name"
MESSAGING_OPERATION = "messaging.operation.type"
MESSAGING_SYSTEM = "messaging.system"
PROTOCOL_NAME = "network.protocol.name"
PROTOCOL_VERSION = "network.protocol.version"
SESSION_ID = "orchestra.session.id"
SESSION_OFFSET = "orchestra.session.offset"
SIGNALR_STATUS = "signalr.connection.status"
SIGNALR_TRANSPORT = "signalr.transport"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"

CLOSE_CODE = "orchestra.close.code"
CLOSE_REASON = "orchestra.close.reason"
CONNECTION_ID = "orchestra.connection.id"
ERROR_REF = "orchestra.error.ref"
HANDSHAKE_OUTCOME = "orchestra.handshake.outcome"
MESSAGE_BYTES = "orchestra.message.bytes"
MESSAGE_OPCODE = "orchestra.message.opcode"
NODE_ID = "orchestra.node.id"

ATTRIBUTES = frozenset(
    value
    for value in list(globals().values())
    if isinstance(value, str) and (value.startswith(NAMESPACES))
)
"""Every attribute of a span."""

HANDSHAKE_SPAN = "GET"
MESSAGE_SPAN = "websocket.receive"
END_SPAN = "websocket.disconnect"
PROCESS_SPAN = "process"
SEND_SPAN = "send"
GROUP_SEND_SPAN = "group_send"
ANSWER_SPAN = "answer"
APPEND_SPAN = "append"
STREAM_SPAN = "stream"

SPANS = (
    HANDSHAKE_SPAN,
    MESSAGE_SPAN,
    END_SPAN,
    PROCESS_SPAN,
    SEND_SPAN,
    GROUP_SEND_SPAN,
    ANSWER_SPAN,
    APPEND_SPAN,
    STREAM_SPAN,
)
"""The first word of the name of every span; a route or type follows."""
