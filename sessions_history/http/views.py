"""List, rename and delete a client's sessions over HTTP, and read their entries."""

import json
from functools import partial

from django.http import HttpResponse

from connections.api.errors import not_found, unavailable
from connections.api.kinds import Shown
from connections.api.parameters import Parameter
from connections.api.resources import PAGING
from connections.exceptions import PresenceUnavailable
from connections.presence.reads import get_present
from sessions_history.exceptions import SessionNotFound
from sessions_history.http import rows
from sessions_history.http.calls import Call, answer, make_view
from sessions_history.log import get_log
from sessions_history.models import TITLE_LENGTH
from sessions_history.presence import name_room

TITLE = Parameter(
    name="title",
    kind=Shown(least=0, most=TITLE_LENGTH),
    about="The title; an empty text removes it.",
    is_required=True,
)


async def _list(call: Call) -> HttpResponse:
    read = rows.find_shared(call.client_id, call.user_id).read_page
    page = await call.database.read(read, call.read_query(PAGING))
    return answer(call, json.dumps(page))


async def _read(call: Call) -> HttpResponse:
    call.read_query(())
    shared = rows.find_shared(call.client_id, call.user_id, call.session_id)
    item = await call.database.read(shared.read_item, call.session_id)
    return answer(call, json.dumps(item), rows.make_session_etag(item))


async def _rename(call: Call) -> HttpResponse:
    body = call.read_body(TITLE)
    item = await call.database.write_urgently(
        rows.rename,
        await call.find_owner_id(),
        call.session_id,
        body["title"],
        call.request.headers.get("If-Match"),
    )
    response = HttpResponse(json.dumps(item), content_type="application/json")
    response["ETag"] = rows.make_session_etag(item)
    return response


async def delete_session(call: Call) -> HttpResponse:
    """Delete a session of the client."""
    call.read_query(())
    log, owner_id = get_log(call.node), await call.find_owner_id()
    if_match = call.request.headers.get("If-Match")
    check = None
    if if_match is not None:
        check = partial(rows.check_match, owner_id, call.session_id, if_match)
    try:
        await log.attached.delete(call.session_id, owner_id, check=check)
    except SessionNotFound as exc:
        raise not_found("session", call.session_id) from exc
    await log.flush()
    return HttpResponse(status=204)


async def _read_entries(call: Call) -> HttpResponse:
    query = call.read_query(PAGING)
    await call.require_role()
    read = rows.read_entries
    return answer(call, await call.database.read(read, call.session_id, query))


async def _read_present(call: Call) -> HttpResponse:
    call.read_query(())
    await call.require_role()
    try:
        present = await get_present(name_room(call.session_id))
    except PresenceUnavailable as exc:
        raise unavailable(f"It is not known who is present: {exc}.") from exc
    members = [{"member": one.member, "data": one.data} for one in present]
    return answer(call, json.dumps({"members": members}))


sessions = make_view(GET=_list)
session = make_view(GET=_read, PATCH=_rename, DELETE=delete_session)
entries = make_view(GET=_read_entries)
present = make_view(GET=_read_present)
