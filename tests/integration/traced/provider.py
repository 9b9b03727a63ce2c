"""Make a provider that exports over OTLP."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def make_provider(service: str, endpoint: str | None = None) -> TracerProvider:
    """
    Return a provider for the spans of one service.

    Without an endpoint OTEL_EXPORTER_OTLP_ENDPOINT names it.
    """
    url = f"{endpoint}/v1/traces" if endpoint else None
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = BatchSpanProcessor(OTLPSpanExporter(url), schedule_delay_millis=100)
    provider.add_span_processor(exporter)
    return provider
