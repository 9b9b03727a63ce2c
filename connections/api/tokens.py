"""Create and revoke access tokens."""

from typing import Any

from django.utils import timezone

from connections.actions.effects import perform
from connections.actions.permissions import may_act_for
from connections.actions.registry import ACTIONS, ActionRequest, Target
from connections.api.errors import ApiError, forbidden
from connections.api.kinds import Line, Lines, Moment
from connections.api.operations import Call, Operation, describe_item, describe_object
from connections.api.parameters import Parameter
from connections.api.tables import TOKENS, find_user
from connections.audit import acting, name_author
from connections.credentials.identity import API_SCOPES
from connections.credentials.tokens import create_access_token
from connections.models import AuditEntry
from connections.models.user_key import get_users
from connections.units import as_utc


def _create(call: Call) -> dict[str, Any]:
    body = call.body
    expires_at = body["expires_at"]
    if expires_at is not None and expires_at <= timezone.now():
        raise ApiError(400, "invalid_field", "expires_at is in the past.")
    user = None
    if body["user"] is not None:
        user = get_users().get(pk=find_user(body["user"]))
        if not may_act_for(call.user, user):
            message = (
                "Tokens for this user need impersonate_accesstoken, and all permissions"
                " of the user."
            )
            raise forbidden("missing_permission", message)
    _check_own_scopes(call, body["scopes"], expires_at)
    with acting(AuditEntry.Via.API, name_author(call.user), **call.facts):
        try:
            token, row = create_access_token(
                body["client"], user=user, scopes=body["scopes"], expires_at=expires_at
            )
        except ValueError as exc:
            raise ApiError(400, "invalid_field", f"{exc}.") from exc
    return {**TOKENS.read_item(str(row.pk)), "token": token}


def _check_own_scopes(call: Call, scopes: list[str], expires_at: Any) -> None:
    """Check that a token gives no other one more of the API than it has itself."""
    wanted = [one for one in scopes if one in API_SCOPES]
    missing = [one for one in wanted if one not in call.credential.scopes]
    if missing:
        message = (
            f"The access token has no scope {missing[0]}, and so cannot give it to"
            " another one."
        )
        raise forbidden("missing_scope", message)
    end = call.credential.expires_at
    if wanted and end and (expires_at is None or as_utc(expires_at) > end):
        message = (
            "A token that opens the API must expire no later than the one that creates"
            f" it: {end.isoformat()}."
        )
        raise forbidden("expires_too_late", message)


_CREATE = Operation(
    name="create_token",
    method="POST",
    path="tokens",
    scope="api:tokens",
    permissions=("connections.add_accesstoken",),
    about="Creates an access token; the answer alone shows it. Scopes of the API are"
    " given only by a token that has them.",
    is_action=True,
    status=201,
    body=(
        Parameter(
            name="client",
            kind=Line(),
            about="The client id of the token's connections.",
            is_required=True,
        ),
        Parameter(
            name="user", kind=Line(), about="The user, by key or login name; or none."
        ),
        Parameter(
            name="scopes",
            kind=Lines(),
            default=[],
            about="Paths, routes and scopes of the API; empty: all routes, and no API.",
        ),
        Parameter(
            name="expires_at", kind=Moment(), about="Without it, it does not expire."
        ),
    ),
    run=_create,
    answer=lambda: describe_object(
        {
            **describe_item(TOKENS)["properties"],
            "token": {"type": "string", "description": "The token itself."},
        }
    ),
)


def _revoke(call: Call) -> dict[str, Any]:
    content = TOKENS.read_item(call.key)
    if content["revoked_at"] is None:
        perform(
            ActionRequest(
                action=ACTIONS["revoke"],
                target=Target.TOKEN,
                values=(str(content["id"]),),
                user=call.user,
                reason=call.body["reason"],
                via=AuditEntry.Via.API,
                facts=call.facts,
            )
        )
    return TOKENS.read_item(call.key)


_REVOKE = Operation(
    name="revoke_token",
    method="POST",
    path="tokens/{id}/revoke",
    scope="api:tokens",
    permissions=(ACTIONS["revoke"].permission,),
    about="Revokes an access token, and ends its connections (4009).",
    is_action=True,
    body=(
        Parameter(
            name="reason",
            kind=Line(),
            about="Why, for the audit stream.",
            is_required=True,
        ),
    ),
    run=_revoke,
    answer=lambda: describe_item(TOKENS),
)

TOKEN_OPERATIONS = (_CREATE, _REVOKE)
