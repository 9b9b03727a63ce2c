"""Collect the spans that Orchestra makes, with the SDK's exporter in memory."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connections.telemetry.traces import use_provider


class Spans:
    """The finished spans of one test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        use_provider(self.provider)

    def close(self) -> None:
        use_provider(None)

    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, start: str) -> list[ReadableSpan]:
        """Return the spans whose name begins so, in the order of their ends."""
        return [one for one in self.all() if one.name.startswith(start)]

    def only(self, start: str) -> ReadableSpan:
        (span,) = self.named(start)
        return span
