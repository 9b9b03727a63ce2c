"""Settings of the reference application for a soak, with its inspection page."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "benchmarks.soak.application.application"
