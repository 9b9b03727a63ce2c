"""The reference project with the application of the incidents."""

from orchestra.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.incidents.application.application"
