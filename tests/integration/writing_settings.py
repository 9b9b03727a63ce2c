"""The project's settings with views that write into sessions."""

from orchestra.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.writing_urls"
