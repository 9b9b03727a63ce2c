"""
Make spans with the API of OpenTelemetry.

This module is imported only by a process that has imported opentelemetry. Every span
is short: none lasts as long as a connection, and none is the parent of a task that
outlives its event.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from connections.asgi import Message
from connections.config.loader import get_config
from connections.telemetry import names
from connections.telemetry.carrier import (
    TRACEPARENT,
    get_traceparent,
    read,
    read_headers,
)
from connections.telemetry.events import Event, Watched, find_close_reason
from connections.version import VERSION

_SYSTEM = "channels"
_NAMESPACE = "connections"
_STATUSES = {
    "closed": "normal_closure",
    "idle": "timeout",
    "dead": "timeout",
    "draining": "app_shutdown",
}
"""The values of signalr.connection.status; other reasons have none."""

_FAILED = ("internal_error", "unavailable", "pool_full")
"""Outcomes of a handshake that are errors of the server, not of the client."""

_PROPAGATOR = TraceContextTextMapPropagator()
_NO_CONTEXT = Context()
_LEAVES_EXCEPTIONS: dict[str, Any] = {
    "record_exception": False,
    "set_status_on_exception": False,
}
"""record_failure() records an exception with its ref."""


class Traces:
    """Makes the spans of one TracerProvider."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer(_NAMESPACE, VERSION)

    def begin_handshake(self, scope: Message, node_id: str, start_ns: int) -> Span:
        """Begin the span of a handshake that arrived at a moment of the wall clock."""
        parent, links = _read_client(read_headers(scope))
        return self._tracer.start_span(
            names.HANDSHAKE_SPAN,
            context=parent,
            kind=SpanKind.SERVER,
            links=links,
            start_time=start_ns,
            attributes={
                names.HTTP_METHOD: "GET",
                names.NODE_ID: node_id,
                names.PROTOCOL_NAME: "websocket",
                names.PROTOCOL_VERSION: "13",
                names.SIGNALR_TRANSPORT: "web_sockets",
                names.URL_PATH: scope.get("path", ""),
                names.URL_SCHEME: scope.get("scheme", "ws"),
            },
        )

    def attach(self, part: Span, watched: Watched) -> None:
        """Add the connection to the span of its handshake."""
        route = watched.connection.route
        if route:
            part.update_name(f"{names.HANDSHAKE_SPAN} {route}")
        part.set_attributes(_describe_connection(watched))

    def end_handshake(self, part: Span, outcome: str, status: int | None) -> None:
        """End the span; connect() may go on after it."""
        part.set_attribute(names.HANDSHAKE_OUTCOME, outcome)
        if status is not None:
            part.set_attribute(names.HTTP_STATUS, status)
        if outcome in _FAILED:
            part.set_status(Status(StatusCode.ERROR, outcome))
        part.end()

    @contextmanager
    def watch(self, part: Span, event: Event, watched: Watched) -> Iterator[None]:
        """Handle an event in a span of its own; connect() has that of the handshake."""
        if event.kind == "websocket.connect":
            with trace.use_span(part, **_LEAVES_EXCEPTIONS):
                yield
            return
        links = [Link(part.get_span_context())]
        if event.is_of_client:
            parent, of_client = _read_client(event.traceparent)
            links += of_client
        else:
            parent = _read_context(event.traceparent)
        with self._tracer.start_as_current_span(
            _name_span(event, watched),
            context=parent,
            kind=SpanKind.CONSUMER if event.is_of_layer else SpanKind.SERVER,
            links=links,
            attributes=_describe(event, watched),
            **_LEAVES_EXCEPTIONS,
        ) as span:
            context = span.get_span_context()
            if context.trace_flags.sampled:
                event.ids = (
                    format_trace_id(context.trace_id),
                    format_span_id(context.span_id),
                )
            yield

    def record_failure(
        self, event: Event, watched: Watched, exc: BaseException, ref: str
    ) -> None:
        """Record an exception in the span of its event, with the client's ref."""
        span = trace.get_current_span()
        span.record_exception(exc, attributes={names.ERROR_REF: ref})
        span.set_attribute(names.ERROR_REF, ref)
        span.set_status(Status(StatusCode.ERROR, type(exc).__name__))

    def send(self, name: str, destination: str, message: Message) -> Message:
        """Make the span of a message to the layer; return the message with it."""
        span = self._tracer.start_span(
            name,
            kind=SpanKind.PRODUCER,
            attributes={
                names.MESSAGING_SYSTEM: _SYSTEM,
                names.MESSAGING_OPERATION: "send",
                names.MESSAGING_NAME: name,
                names.MESSAGING_DESTINATION: destination,
            },
        )
        with trace.use_span(span, end_on_exit=True):
            return {**message, TRACEPARENT: get_traceparent()}

    @contextmanager
    def work(
        self,
        name: str,
        traceparent: str,
        attributes: Mapping[str, Any],
        ends: tuple[type[Exception], ...],
    ) -> Iterator[None]:
        """Do work in a span that continues a trace; `ends` are no errors."""
        parent = _read_context(read(traceparent)) if traceparent else None
        with self._tracer.start_as_current_span(
            name, context=parent, attributes=attributes, **_LEAVES_EXCEPTIONS
        ) as span:
            try:
                yield
            except Exception as exc:
                if not isinstance(exc, ends):
                    span.record_exception(exc)
                    span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
                raise


_own_provider: trace.TracerProvider | None = None
_found: Traces | None = None


def use_provider(provider: trace.TracerProvider | None) -> None:
    """Make the spans of this process with a provider of their own; None: the global."""
    global _own_provider
    _own_provider = provider


def find_traces() -> Traces | None:
    """Return what makes spans, or None if nobody has set a TracerProvider."""
    global _found
    provider = _own_provider or trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    if _found is None or _found.provider is not provider:
        _found = Traces(provider)
    return _found


def _read_context(traceparent: str) -> Context:
    """Return the context that a message carries; an empty one begins a trace."""
    if not traceparent:
        return _NO_CONTEXT
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=_NO_CONTEXT)


def _read_client(traceparent: str) -> tuple[Context, list[Link]]:
    """Return the parent and the links that a client's traceparent stands for."""
    context = _read_context(traceparent)
    remote = trace.get_current_span(context).get_span_context()
    if not remote.is_valid:
        return _NO_CONTEXT, []
    if get_config().telemetry.trust_clients:
        return context, []
    return _NO_CONTEXT, [Link(remote)]


def _name_span(event: Event, watched: Watched) -> str:
    if event.is_of_layer:
        return f"{names.PROCESS_SPAN} {event.kind}"
    return f"{event.kind} {watched.connection.route}".rstrip()


def _describe(event: Event, watched: Watched) -> dict[str, Any]:
    """Return the attributes of the span of an event."""
    message = event.message
    attributes = _describe_connection(watched)
    if event.is_of_layer:
        attributes[names.MESSAGING_SYSTEM] = _SYSTEM
        attributes[names.MESSAGING_OPERATION] = "process"
        attributes[names.MESSAGING_NAME] = event.kind
        return attributes
    attributes[names.PROTOCOL_NAME] = "websocket"
    if event.is_of_client:
        text = message.get("text")
        content = message.get("bytes") or b"" if text is None else _encode(text)
        attributes[names.MESSAGE_BYTES] = len(content)
        attributes[names.MESSAGE_OPCODE] = "binary" if text is None else "text"
    elif (code := message.get("code")) is not None:
        word = find_close_reason(event, watched)
        attributes[names.CLOSE_CODE] = code
        attributes[names.CLOSE_REASON] = word
        if word in _STATUSES:
            attributes[names.SIGNALR_STATUS] = _STATUSES[word]
    return attributes


def _encode(text: str) -> str | bytes:
    return text if text.isascii() else text.encode("utf-8", "surrogatepass")


def _describe_connection(watched: Watched) -> dict[str, Any]:
    connection, client = watched.connection, watched.client_name
    attributes = {names.CONNECTION_ID: connection.connection_id}
    if connection.route:
        attributes[names.HTTP_ROUTE] = connection.route
    if client:
        is_id = client == connection.client_id
        attributes[names.CLIENT_ID if is_id else names.CLIENT_PSEUDONYM] = client
    return attributes
