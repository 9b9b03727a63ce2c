"""Answer the errors of a view with JSON, those of Django and of the database too."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from django.core.exceptions import DisallowedHost
from django.core.signals import got_request_exception
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse

from connections.api.errors import ApiError, unavailable
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.storage.failures import describe_failure

logger = get_logger(__name__)

View = Callable[..., Coroutine[Any, Any, HttpResponse]]


def answer_errors(view: View) -> View:
    """Return a view that answers every error as `{"error": {"code", "message"}}`."""

    @wraps(view)
    async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            request.get_host()
            return await view(request, *args, **kwargs)
        except ApiError as exc:
            return exc.make_response()
        except DisallowedHost:
            message = "The Host of the request is not in ALLOWED_HOSTS."
            return ApiError(400, "disallowed_host", message).make_response()
        except DatabaseUnavailable as exc:
            return unavailable(f"The database is away: {exc}.").make_response()
        except DatabaseError as exc:
            logger.warning(
                "The API cannot answer: the database %s",
                describe_failure(exc),
                extra={"event": "api_unavailable"},
            )
            return unavailable(f"The database {describe_failure(exc)}.").make_response()
        except Exception:
            # Django would answer with a page; its receivers, such as Sentry's, get
            # the exception all the same.
            logger.exception("The API failed", extra={"event": "api_failed"})
            got_request_exception.send(sender=view, request=request)
            message = "The server failed to answer; its log has the reason."
            return ApiError(500, "failed", message).make_response()

    return answer
