"""List, rename and delete a client's sessions over HTTP, and read their entries."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt

from connections.api.answers import answer_errors
from connections.api.errors import ApiError, not_found, unavailable
from connections.api.kinds import Line
from connections.api.parameters import Parameter, read_body, read_query
from connections.api.rates import RequestRates
from connections.api.resources import PAGING
from connections.node.current import get_node
from connections.node.node import Node
from connections.storage.database import Database
from connections.storage.transactions import begin_no_transaction
from connections.views.own_loop import release_own_node
from sessions_history.exceptions import SessionNotFound
from sessions_history.http import rows
from sessions_history.http.authentication import authenticate
from sessions_history.log import get_log
from sessions_history.models import TITLE_LENGTH
from sessions_history.session_ids import SESSION_ID

_MOST_BODY_BYTES = 16_384
_TITLE = Parameter(
    name="title",
    kind=Line(least=0, most=TITLE_LENGTH),
    about="The title; an empty text removes it.",
    is_required=True,
)

rates = RequestRates(
    subject="client",
    options="rate_limit.messages_per_second, rate_limit.burst_messages",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One authenticated request."""

    node: Node
    database: Database
    request: HttpRequest
    client_id: str
    session_id: str
    """The session in the path, or an empty text."""

    def read_query(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Return the values of the query without its ticket."""
        query = self.request.GET.copy()
        query.pop("ticket", None)
        return read_query(parameters, query)


_Serve = Callable[[_Call], Awaitable[HttpResponse]]
_View = Callable[..., Any]


async def _list(call: _Call) -> HttpResponse:
    read = rows.find_own(call.client_id).read_page
    page = await call.database.read(read, call.read_query(PAGING))
    return _answer(call, json.dumps(page))


async def _read(call: _Call) -> HttpResponse:
    call.read_query(())
    read = rows.find_own(call.client_id).read_item
    item = await call.database.read(read, call.session_id)
    return _answer(call, json.dumps(item))


async def _rename(call: _Call) -> HttpResponse:
    call.read_query(())
    body = read_body((_TITLE,), call.request, _MOST_BODY_BYTES)
    item = await call.database.write_urgently(
        rows.rename,
        call.client_id,
        call.session_id,
        body["title"],
        call.request.headers.get("If-Match"),
    )
    response = HttpResponse(item, content_type="application/json")
    response["ETag"] = rows.make_etag(item)
    return response


async def _delete(call: _Call) -> HttpResponse:
    call.read_query(())
    log = get_log(call.node)
    try:
        await log.attached.delete(call.session_id, call.client_id)
    except SessionNotFound as exc:
        raise not_found("session", call.session_id) from exc
    await log.flush()
    return HttpResponse(status=204)


async def _read_entries(call: _Call) -> HttpResponse:
    page = await call.database.read(
        rows.read_entries, call.client_id, call.session_id, call.read_query(PAGING)
    )
    return _answer(call, page)


def _answer(call: _Call, content: str) -> HttpResponse:
    """Return JSON with its ETag, or 304 if the client has it."""
    etag = rows.make_etag(content)
    response = HttpResponse(content, content_type="application/json")
    response["ETag"] = etag
    return get_conditional_response(call.request, etag, response=response) or response


def _make_view(**methods: _Serve) -> _View:
    """Return the view of one path, with what serves each method."""
    methods["HEAD"] = methods["GET"]

    @login_not_required
    @begin_no_transaction
    @csrf_exempt
    @cache_control(private=True, no_cache=True)
    @release_own_node
    @answer_errors
    async def view(request: HttpRequest, session_id: str = "") -> HttpResponse:
        node = get_node()
        serve = methods.get(request.method or "")
        if serve is None:
            allowed = ", ".join(sorted(methods))
            message = f"This method is not allowed here; allowed: {allowed}."
            raise ApiError(405, "method_not_allowed", message, {"Allow": allowed})
        credential = await authenticate(node, request)
        rate = node.config.rate_limit
        rates.take(credential.client_id, rate.messages_per_second, rate.burst_messages)
        if session_id and not SESSION_ID.fullmatch(session_id):
            raise not_found("session", session_id)
        if node.database is None:
            raise unavailable("This node has no database.")
        call = _Call(
            node=node,
            database=node.database,
            request=request,
            client_id=credential.client_id,
            session_id=session_id,
        )
        response = await serve(call)
        patch_vary_headers(response, ("Authorization", "Cookie"))
        return response

    return view


sessions = _make_view(GET=_list)
session = _make_view(GET=_read, PATCH=_rename, DELETE=_delete)
entries = _make_view(GET=_read_entries)
