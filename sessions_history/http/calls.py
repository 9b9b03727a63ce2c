"""Serve requests about sessions: authenticate, limit, and answer with JSON."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt

from connections.api.answers import answer_errors
from connections.api.errors import ApiError, not_found, unavailable
from connections.api.parameters import Parameter, read_body, read_query
from connections.api.rates import RequestRates
from connections.node.current import get_node
from connections.node.node import Node
from connections.presence.rooms import name_member
from connections.storage.database import Database
from connections.storage.transactions import begin_no_transaction
from connections.views.own_loop import release_own_node
from connections.views.source import find_request_source
from sessions_history.http import rows
from sessions_history.http.authentication import authenticate
from sessions_history.member_models import Role
from sessions_history.roles import find_access
from sessions_history.session_ids import SESSION_ID, find_named

_MOST_BODY_BYTES = 16_384

rates = RequestRates(
    subject="client",
    options="rate_limit.messages_per_second, rate_limit.burst_messages",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated request."""

    node: Node
    database: Database
    request: HttpRequest
    client_id: str
    user: Any
    """The user of the credential, or None."""

    session_id: str
    """The session in the path, or an empty text."""

    claims: Mapping[str, Any] | None
    """The claims of the JWT of the client, or None."""

    key: str
    """The part of the session in the path, such as a member, or an empty text."""

    @property
    def user_id(self) -> Any:
        """The key of the user, or None."""
        return self.user.pk if self.user is not None else None

    @property
    def author(self) -> str:
        """The member whose messages the client's are."""
        if self.user_id is not None:
            return f"user:{self.user_id}"
        return name_member(self.client_id)

    async def find_owner_id(self) -> str:
        """
        Return the client id of the owner of the session, if that is who asks.

        Raises:
            ApiError: 404, the client has no role in it; 403, it has another one.
        """
        find = rows.find_owner_id
        return await self.database.read(
            find, self.client_id, self.user_id, self.session_id
        )

    async def find_access(self) -> tuple[str, Role | None]:
        """Return the client id of the session's owner, and the role of the client."""
        return await self.database.read(
            find_access, self.session_id, self.client_id, self.user_id
        )

    async def require_role(self) -> Role:
        """
        Return the role of the client in the session.

        Raises:
            ApiError: 404, it has none.
        """
        require = rows.require_role
        return await self.database.read(
            require, self.client_id, self.user_id, self.session_id
        )

    def read_query(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Return the values of the query without its ticket."""
        query = self.request.GET.copy()
        query.pop("ticket", None)
        return read_query(parameters, query)

    def read_body(self, *parameters: Parameter) -> dict[str, Any]:
        """Return the values of the body; the query has none but a ticket."""
        self.read_query(())
        return read_body(parameters, self.request, _MOST_BODY_BYTES)


Serve = Callable[[Call], Awaitable[HttpResponse]]
View = Callable[..., Any]


def answer(call: Call, content: str, etag: str = "") -> HttpResponse:
    """Return JSON with its ETag, or 304 if the client has it."""
    etag = etag or rows.make_etag(content)
    response = HttpResponse(content, content_type="application/json")
    response["ETag"] = etag
    return get_conditional_response(call.request, etag, response=response) or response


def require_method(request: HttpRequest, methods: Iterable[str]) -> str:
    """
    Return the method of a request, which is one of those of its path.

    Raises:
        ApiError: 405, it is none.
    """
    method = request.method or ""
    if method not in methods:
        allowed = ", ".join(sorted(methods))
        message = f"This method is not allowed here; allowed: {allowed}."
        raise ApiError(405, "method_not_allowed", message, {"Allow": allowed})
    return method


def make_view(*, takes_names: bool = False, **methods: Serve) -> View:
    """
    Return the view of one path, with what serves each method.

    With takes_names the path may have a name in place of the id of a session.
    """
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]

    @login_not_required
    @begin_no_transaction
    @csrf_exempt
    @cache_control(private=True, no_cache=True)
    @release_own_node
    @answer_errors
    async def view(
        request: HttpRequest, session_id: str = "", key: str = ""
    ) -> HttpResponse:
        node = get_node()
        serve = methods[require_method(request, methods)]
        credential = await authenticate(node, request)
        rate = node.config.rate_limit
        rates.take(credential.client_id, rate.messages_per_second, rate.burst_messages)
        if takes_names:
            session_id = find_named(credential.client_id, session_id)
        if session_id and not SESSION_ID.fullmatch(session_id):
            raise not_found("session", session_id)
        if node.database is None:
            raise unavailable("This node has no database.")
        call = Call(
            node=node,
            database=node.database,
            request=request,
            client_id=credential.client_id,
            user=credential.user,
            session_id=session_id,
            claims=credential.claims,
            key=key,
        )
        response = await serve(call)
        patch_vary_headers(response, ("Authorization", "Cookie"))
        source = find_request_source(request, node.config.trusted_proxies)
        if node.is_draining or node.was_refused(source.address):
            # A client whose handshake this node refused must not take it for a proxy.
            response["Retry-After"] = "1"
        return response

    return view
