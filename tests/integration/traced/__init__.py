"""A project whose processes export their spans over OTLP."""
