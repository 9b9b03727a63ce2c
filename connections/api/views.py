"""The view of the operators' API, which answers every request with JSON."""

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from connections.actions.permissions import is_read_only
from connections.api.answers import answer_errors
from connections.api.authentication import authenticate
from connections.api.errors import forbidden
from connections.api.openapi import describe_api
from connections.api.operations import Call, Operation
from connections.api.parameters import read_body, read_query
from connections.api.rates import RequestRates
from connections.api.routes import DOCUMENT, find_operation
from connections.config.loader import get_config
from connections.models.credentials import digest_token
from connections.node.current import get_node
from connections.storage.transactions import begin_no_transaction
from connections.views.own_loop import release_own_node

rates = RequestRates()


@login_not_required
@begin_no_transaction
@csrf_exempt
@never_cache
@release_own_node
@answer_errors
async def api(request: HttpRequest, rest: str | None = None) -> HttpResponse:
    """
    Answer a request of the API.

    Only a program that knows an access token can send it, and no cookie counts. So
    another site cannot make a browser send a valid request, and CSRF tokens are not
    needed.
    """
    rest = rest or ""
    operation, key = find_operation(request.method or "", rest)
    if operation is DOCUMENT:
        root_url = request.path.removesuffix(f"/{rest}")
        return JsonResponse(describe_api(root_url))
    credential, token = await authenticate(get_node(), request)
    config = get_config().api
    rates.take(digest_token(token), config.requests_per_second, config.burst_requests)
    if operation.scope not in credential.scopes:
        raise forbidden(
            "missing_scope",
            f"The access token has no scope {operation.scope}; create one that has it.",
        )
    call = Call(request=request, credential=credential, key=key)
    content = await sync_to_async(_run)(operation, call)
    return JsonResponse(content, status=operation.status)


def _run(operation: Operation, call: Call) -> dict[str, Any]:
    """Check the user's permission and the values of a request, and run it."""
    if call.user is None:
        message = "The access token has no user, and so no permission."
        raise forbidden("missing_permission", message)
    if not any(map(call.may, operation.permissions)):
        needed = " or ".join(operation.permissions)
        message = f"The user of the access token has no permission {needed}."
        raise forbidden("missing_permission", message)
    if operation.is_action and is_read_only():
        message = "The configuration permits no action (dashboard.read_only)."
        raise forbidden("read_only", message)
    query = read_query(operation.query, call.request.GET)
    body: dict[str, Any] = {}
    if operation.method != "GET":
        most_bytes = get_config().api.max_body_size
        body = read_body(operation.body, call.request, most_bytes, "api.max_body_size")
    return operation.run(
        Call(
            request=call.request,
            credential=call.credential,
            key=call.key,
            query=query,
            body=body,
        )
    )
