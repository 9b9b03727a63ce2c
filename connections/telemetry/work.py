"""Do the work of a session in a span."""

from collections.abc import Iterator
from contextlib import contextmanager

from connections.telemetry.current import find_traces
from connections.telemetry.names import SESSION_ID, SESSION_OFFSET


@contextmanager
def do_in_span(
    name: str,
    session_id: str,
    traceparent: str = "",
    *,
    offset: int | None = None,
    ends: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """
    Do work in a span, if traces are on.

    It continues the trace of a traceparent, or else that of the current span. The
    exceptions in `ends` are no errors.
    """
    traces = find_traces()
    if traces is None:
        yield
        return
    attributes: dict[str, str | int] = {SESSION_ID: session_id}
    if offset is not None:
        attributes[SESSION_OFFSET] = offset
    with traces.work(name, traceparent, attributes, ends):
        yield
