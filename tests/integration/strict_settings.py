"""The project's settings with a Content-Security-Policy that forbids inline code."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from orchestra.settings import *  # noqa: F403
from orchestra.settings import MIDDLEWARE

MIDDLEWARE = ["tests.integration.strict_settings.add_policy", *MIDDLEWARE]


def add_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Say with every answer that nothing may come from elsewhere, or inline."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return answer
