"""Settings of a project with the consumers of these tests."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.integration.consumers.application"
