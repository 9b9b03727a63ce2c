"""The project's settings for a soak: it can be looked into."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "benchmarks.soak.application.application"
