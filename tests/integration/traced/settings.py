"""The settings of a project whose answers are written by a worker."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.integration.traced.asgi.application"
SESSIONS_RESPONDER = "tests.integration.traced.responder.Delegating"
