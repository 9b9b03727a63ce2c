"""Settings of a project with a consumer that is slow to accept."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.integration.patient.application"
