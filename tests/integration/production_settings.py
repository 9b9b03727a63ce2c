"""The project's settings as in production: a name, TLS alone, URLs under a prefix."""

from orchestra.settings import *  # noqa: F403

DEBUG = False
ALLOWED_HOSTS = [".example.com"]
SECURE_SSL_REDIRECT = True
SECURE_REDIRECT_EXEMPT = []
ROOT_URLCONF = "tests.integration.production_urls"
