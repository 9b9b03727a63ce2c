"""
Read and append to a session by the Durable Streams protocol.

The version of 2025 (github.com/durable-streams/durable-streams, PROTOCOL.md) in JSON
mode. Live reads are in sessions_history.http.live.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.http import HttpResponse
from django.utils.cache import get_conditional_response

from connections.api.errors import ApiError, not_found
from connections.api.parameters import parse_json, read_bytes
from connections.exceptions import DatabaseUnavailable, InvalidMessage
from connections.storage.text import is_storable
from sessions_history.exceptions import (
    AppendedBefore,
    SequenceGap,
    SessionNotFound,
    SessionsError,
)
from sessions_history.http import appends, rows
from sessions_history.http.calls import Call, make_view, rates
from sessions_history.http.offsets import BEGINNING, NOW, read_offset
from sessions_history.http.stream_reads import OffsetGone, StreamPage, read_page
from sessions_history.http.views import delete_session
from sessions_history.models import KEY_LENGTH
from sessions_history.session_ids import is_recent_id
from sessions_history.stream_producers import ProducerStep

_JSON = "application/json"
_PRODUCER_HEADERS = ("Producer-Id", "Producer-Epoch", "Producer-Seq")
_NUMBER = re.compile(r"[0-9]{1,16}")
_MOST_NUMBER = 2**53 - 1
_MOST_ITEMS = 100
"""Of one request."""

_FAILURES = (SessionsError, InvalidMessage, DatabaseUnavailable)


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
    if is_head or wanted == NOW:
        _describe(response, page)
        # The end of the stream moves on.
        response["Cache-Control"] = "no-store"
        return response
    etag = rows.make_etag(f"{page.next_offset} {page.is_up_to_date} {page.content}")
    response["ETag"] = etag
    found = get_conditional_response(call.request, etag, response=response) or response
    # Django takes no headers of a protocol over to a 304.
    _describe(found, page)
    return found


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


async def _create(call: Call) -> HttpResponse:
    """Begin a session, or find that it exists (section 5.1)."""
    _refuse_unknown(call)
    if not call.request.headers.get("Content-Type", _JSON).strip():
        raise _invalid("Content-Type is empty")
    if _read_type(call, default=_JSON) != _JSON:
        message = "A session has items of JSON: send Content-Type: application/json."
        raise ApiError(415, "not_json", message)
    raw = _read_raw(call)
    payloads = _read_payloads(call, raw) if raw else []
    await _require_own_id(call)
    try:
        is_new = await appends.begin(call, payloads)
        if not is_new:
            await call.require_role()
    except _FAILURES as exc:
        if isinstance(exc, SessionNotFound):
            message = "The session was deleted, and its id is not used again."
            raise ApiError(409, "deleted", message) from exc
        raise appends.explain_refusal(exc) from exc
    response = HttpResponse(status=201 if is_new else 200, content_type=_JSON)
    if is_new:
        response["Location"] = call.request.build_absolute_uri(call.request.path)
    return await _with_end(call, response)


async def _append(call: Call) -> HttpResponse:
    """Append a message, or several at once (section 5.2)."""
    _refuse_unknown(call)
    raw = _read_raw(call)
    if not raw:
        raise _invalid("The body is empty")
    kind = _read_type(call)
    if not kind:
        raise _invalid("Content-Type is missing")
    role, beginning = await appends.require_author(call)
    if kind != _JSON:
        message = "The session has items of JSON: send Content-Type: application/json."
        raise ApiError(409, "not_json", message)
    payloads = _read_payloads(call, raw)
    if not payloads:
        raise _invalid("The array is empty")
    step = _read_step(call)
    try:
        if len(payloads) == 1:
            await appends.append_one(
                call, payloads[0], role=role, beginning=beginning, step=step
            )
        else:
            await appends.append_all(call, payloads, step, beginning)
    except AppendedBefore as exc:
        return await _with_end(call, _confirm(204, step, exc.sequence))
    except _FAILURES as exc:
        error = appends.explain_refusal(exc)
        if step is not None and isinstance(exc, SequenceGap):
            error.headers["Producer-Received-Seq"] = str(step.sequence)
        raise error from exc
    status = 204 if step is None else 200
    return await _with_end(call, _confirm(status, step, step.sequence if step else 0))


def _confirm(status: int, step: ProducerStep | None, sequence: int) -> HttpResponse:
    response = HttpResponse(status=status)
    if step is not None:
        response["Producer-Epoch"] = str(step.epoch)
        response["Producer-Seq"] = str(sequence)
    return response


async def _with_end(call: Call, response: HttpResponse) -> HttpResponse:
    """Name the end of the stream if it can be read: what was sent is committed."""
    with suppress(DatabaseUnavailable, SessionNotFound):
        page = await call.database.read(read_page, call.session_id, NOW)
        response["Stream-Next-Offset"] = str(page.next_offset)
    return response


async def _require_own_id(call: Call) -> None:
    """
    Check that the client may begin a session with the id of the path.

    Raises:
        ApiError: 404, the id is of another client, or of nobody.
    """
    is_named = call.request.path.rstrip("/").split("/")[-2] != call.session_id
    if not is_named and not is_recent_id(call.session_id, call.client_id):
        await call.require_role()


def _refuse_unknown(call: Call) -> None:
    """
    Refuse what a session cannot be.

    Raises:
        ApiError: 400.
    """
    headers = call.request.headers
    for name in ("Stream-TTL", "Stream-Expires-At", "Stream-Seq", "Stream-Forked-From"):
        if name in headers:
            raise _not_supported(name)
    for name in ("Stream-Fork-Offset", "Stream-Fork-Sub-Offset"):
        if name in headers:
            raise _not_supported(name)
    if headers.get("Stream-Closed", "").lower() == "true":
        raise _not_supported("Stream-Closed")


def _not_supported(name: str) -> ApiError:
    message = f"A session takes no {name}: its entries are kept, open and in order."
    return ApiError(400, "not_supported", message)


def _read_raw(call: Call) -> bytes:
    most_bytes = call.node.config.max_message_size
    return read_bytes(call.request, most_bytes, "max_message_size")


def _read_type(call: Call, default: str = "") -> str:
    given: str = call.request.headers.get("Content-Type", default)
    return given.partition(";")[0].strip().lower()


def _read_payloads(call: Call, raw: bytes) -> list[Any]:
    """
    Return the messages of a body: the items of an array, or its one content.

    Each counts for the rate of the client, as if it had come alone.

    Raises:
        ApiError: 400, it is no JSON, or has too many items.
    """
    content = parse_json(raw)
    payloads = content if isinstance(content, list) else [content]
    if len(payloads) > _MOST_ITEMS:
        raise _invalid(f"An array has at most {_MOST_ITEMS} items")
    rates.charge(call.client_id, max(0, len(payloads) - 1))
    return payloads


def _read_step(call: Call) -> ProducerStep | None:
    """
    Return the append of a producer, or None without one.

    Raises:
        ApiError: 400, the headers of a producer are not whole, or malformed.
    """
    headers = call.request.headers
    given = [headers.get(name) for name in _PRODUCER_HEADERS]
    if given == [None, None, None]:
        return None
    producer, epoch, sequence = (one or "" for one in given)
    numbers = [int(one) for one in (epoch, sequence) if _NUMBER.fullmatch(one)]
    if not producer or len(numbers) < 2 or max(numbers) > _MOST_NUMBER:
        names = ", ".join(_PRODUCER_HEADERS)
        raise _invalid(f"{names} belong together: a text and two whole numbers")
    if len(producer) > KEY_LENGTH or not is_storable(producer):
        raise _invalid(f"Producer-Id has at most {KEY_LENGTH} characters")
    return ProducerStep(producer=producer, epoch=numbers[0], sequence=numbers[1])


def _invalid(text: object) -> ApiError:
    return ApiError(400, "invalid_parameter", f"{text}.")


stream = make_view(
    takes_names=True,
    GET=_read,
    POST=_append,
    PUT=_create,
    DELETE=delete_session,
)
