"""Errors of the operators' API, each answered as JSON."""

from django.http import JsonResponse

RETRY_SECONDS = 5


class ApiError(Exception):
    """A request is not served; the answer has a status, a code and a sentence."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    def make_response(self) -> JsonResponse:
        """Return the answer."""
        content = {"error": {"code": self.code, "message": self.message}}
        return JsonResponse(content, status=self.status, headers=self.headers)


def not_found(what: str, text: object) -> ApiError:
    """Return the error of an id that names nothing."""
    return ApiError(404, "not_found", f"There is no {what} {str(text)[:80]!r}.")


def forbidden(code: str, message: str) -> ApiError:
    """Return the error of a token, or its user, that may not do something."""
    return ApiError(403, code, message)


def unavailable(message: str) -> ApiError:
    """Return the error of a service that is away for now."""
    return ApiError(503, "unavailable", message, {"Retry-After": str(RETRY_SECONDS)})
