"""
Read a session by the Durable Streams protocol: its finished entries, in order.

The version of 2025 (github.com/durable-streams/durable-streams, PROTOCOL.md) in JSON
mode. Live reads are in sessions_history.http.live.
"""

from collections.abc import Callable
from typing import Any

from django.http import HttpResponse
from django.utils.cache import get_conditional_response

from connections.api.errors import ApiError, not_found
from sessions_history.exceptions import SessionNotFound
from sessions_history.http import rows
from sessions_history.http.calls import Call, make_view
from sessions_history.http.offsets import BEGINNING, NOW, read_offset
from sessions_history.http.stream_reads import OffsetGone, StreamPage, read_page


async def _read(call: Call) -> HttpResponse:
    """Answer a catch-up read (section 5.6), or its metadata alone (5.5)."""
    if "live" in call.request.GET:
        raise ApiError(
            400,
            "invalid_parameter",
            "live is sse or long-poll, and this server serves neither unless"
            " protect(live=live_urlpatterns()) does.",
        )
    is_head = call.request.method == "HEAD"
    offset = _run(read_offset, call.request.GET.getlist("offset"))
    wanted = NOW if is_head else (offset or BEGINNING)
    await call.require_role()
    try:
        page = await call.database.read(read_page, call.session_id, wanted)
    except SessionNotFound as exc:
        raise not_found("session", call.session_id) from exc
    except OffsetGone as exc:
        message = f"{exc} Read from offset -1 again."
        raise ApiError(410, "gone", message) from exc
    except ValueError as exc:
        raise _invalid(exc) from exc
    response = HttpResponse(page.content, content_type="application/json")
    _describe(response, page)
    if is_head or wanted == NOW:
        # The end of the stream moves on.
        response["Cache-Control"] = "no-store"
        return response
    etag = rows.make_etag(f"{page.next_offset} {page.is_up_to_date} {page.content}")
    response["ETag"] = etag
    return get_conditional_response(call.request, etag, response=response) or response


def _describe(response: HttpResponse, page: StreamPage) -> None:
    response["Stream-Next-Offset"] = str(page.next_offset)
    if page.is_up_to_date:
        response["Stream-Up-To-Date"] = "true"
    response["Cross-Origin-Resource-Policy"] = "same-origin"


def _run(parse: Callable[..., Any], *values: Any) -> Any:
    try:
        return parse(*values)
    except ValueError as exc:
        raise _invalid(exc) from exc


def _invalid(exc: ValueError) -> ApiError:
    return ApiError(400, "invalid_parameter", f"{exc}.")


stream = make_view(GET=_read)
