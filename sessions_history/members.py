"""
Add, change and remove the members of sessions, and invite them.

    invitation, token = invite(session_id, "writer")
    joined = redeem(token, request.user)

These functions are for synchronous code: views, admin actions, commands. An async
caller uses database_sync_to_async(). Every node hears of a change once it is committed:
a member that was removed is closed with 4003, another role counts at once.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.core import signing
from django.db import transaction
from django.utils import timezone

from connections.config.loader import get_config
from connections.credentials.identity import name_user
from connections.models.alias import atomic, get_alias
from sessions_history import writer_log
from sessions_history.beginnings import lock_client, lock_session
from sessions_history.exceptions import (
    InvitationInvalid,
    MemberNotFound,
    OwnerStays,
    SessionNotFound,
    TooManyMembers,
    TooManySessions,
)
from sessions_history.log import SessionLog
from sessions_history.member_models import Role, SessionInvitation, SessionMember
from sessions_history.models import Session

logger = logging.getLogger(__name__)

MOST_MEMBERS = 100
"""How many members and open invitations a session may have together."""

GIVEN_ROLES = (Role.WRITER, Role.READER, Role.AGENT)
"""The roles that a member can be given; the owner's is handed over."""

_SALT = "sessions_history.invitation"
_RANKS = (Role.READER, Role.AGENT, Role.WRITER, Role.OWNER)
"""The roles by their rights, the least first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A session that a user may use, and the role of the user."""

    session_id: str
    role: Role


def invite(
    session_id: str,
    role: str,
    *,
    author: Any = None,
    lifetime_seconds: float | None = None,
    is_single_use: bool = True,
) -> tuple[SessionInvitation, str]:
    """
    Make an invitation to a session; return it and the token for its link.

    The token is signed and names the session and the role. Without a lifetime the
    invitation expires after sessions.invitation_seconds. Of those that were used,
    revoked or have expired the session keeps the newest MOST_MEMBERS.

    Raises:
        ValueError: the role cannot be given, or the lifetime is not positive.
        SessionNotFound: the session does not exist.
        TooManyMembers: it has MOST_MEMBERS members and open invitations.
    """
    given = check_role(role)
    if lifetime_seconds is None:
        lifetime_seconds = get_config().sessions.invitation_seconds
    if not lifetime_seconds > 0:
        raise ValueError(f"lifetime_seconds is {lifetime_seconds}, not above 0")
    with atomic():
        lock_session(session_id)
        _require_room(session_id)
        invitation = SessionInvitation.objects.create(
            session_id=session_id,
            role=given,
            author=author,
            is_single_use=is_single_use,
            expires_at=timezone.now() + timedelta(seconds=lifetime_seconds),
        )
        _forget_ended(session_id)
    return invitation, make_token(invitation)


def make_token(invitation: SessionInvitation) -> str:
    """Return the token for the link of an invitation."""
    named = [invitation.pk, invitation.session_id, invitation.role]
    return signing.dumps(named, salt=_SALT)


def redeem(token: str, user: Any) -> Joined:
    """
    Make a user a member by the token of an invitation.

    Of several users that redeem a single-use invitation at once, one becomes a
    member. A user that has the role already, or one with more rights, keeps it and
    leaves the invitation unused.

    Raises:
        InvitationInvalid: it is unknown, expired, revoked or used.
        TooManyMembers: the session has MOST_MEMBERS members.
    """
    try:
        invitation_id, session_id, role = signing.loads(token, salt=_SALT)
    except signing.BadSignature as exc:
        raise InvitationInvalid("unknown") from exc
    named = SessionInvitation.objects.filter(
        pk=invitation_id, session=session_id, role=role
    )
    joined = _find_joined(session_id, role, user)
    if joined is not None and named.exists():
        return joined
    with atomic():
        # The write comes first: SQLite refuses a transaction that has read what
        # another one has written since. PostgreSQL waits here for a rival, and
        # then sees that the invitation is used. Its rows are locked after the
        # session, as by whoever revokes it.
        try:
            lock_session(session_id)
        except SessionNotFound as exc:
            raise InvitationInvalid("unknown") from exc
        is_taken = named.open().update(used_at=timezone.now())
        if is_taken:
            joined, is_new = _join(session_id, Role(role), user)
            if not is_new:
                named.filter(is_single_use=True).update(used_at=None)
            return joined
    joined = _find_joined(session_id, role, user)
    if joined is not None and named.exists():
        return joined
    raise InvitationInvalid(_explain(named.first()))


def revoke(session_id: str, invitation_id: str) -> None:
    """
    Revoke an invitation to a session; members that it made stay.

    Raises:
        InvitationInvalid: the session has no such invitation.
    """
    named = SessionInvitation.objects.filter(pk=invitation_id, session=session_id)
    is_revoked = named.filter(revoked_at=None).update(revoked_at=timezone.now())
    if not is_revoked and not named.exists():
        raise InvitationInvalid("unknown")


def add(session_id: str, user: Any, role: str) -> None:
    """
    Make a user a member of a session without an invitation, or change the role.

    Raises:
        ValueError: the role cannot be given.
        SessionNotFound: the session does not exist.
        OwnerStays: the user is the owner.
        TooManyMembers: it has MOST_MEMBERS members and open invitations.
    """
    given = check_role(role)
    with atomic():
        if _is_owner(lock_session(session_id), user):
            raise OwnerStays
        if not _members(session_id, user).update(role=given):
            _require_room(session_id)
            SessionMember.objects.create(session_id=session_id, user=user, role=given)
        _announce(session_id)


def change_role(session_id: str, user: Any, role: str) -> None:
    """
    Change the role of a member.

    Raises:
        ValueError: the role cannot be given.
        OwnerStays: the user is the owner.
        SessionNotFound, MemberNotFound: there is no such member.
    """
    given = check_role(role)
    with atomic():
        if _is_owner(lock_session(session_id), user):
            raise OwnerStays
        if not _members(session_id, user).update(role=given):
            raise MemberNotFound
        _announce(session_id)


def remove(session_id: str, user: Any) -> None:
    """
    Remove a member; its connections are closed with 4003.

    Invitations stay valid: who has the link of one joins again until it is revoked.

    Raises:
        OwnerStays: the user is the owner.
        SessionNotFound, MemberNotFound: there is no such member.
    """
    remove_key(session_id, user.pk)


def remove_key(session_id: str, user_key: Any) -> None:
    """
    Remove a member by the primary key of a user, who may be gone; as remove().

    Raises:
        OwnerStays, SessionNotFound, MemberNotFound: as remove().
    """
    with atomic():
        if lock_session(session_id).client_id == f"user:{user_key}":
            raise OwnerStays
        named = SessionMember.objects.filter(session=session_id, user=user_key)
        deleted, _ = named.delete()
        if not deleted:
            raise MemberNotFound
        _announce(session_id)


def hand_over(session_id: str, user: Any) -> None:
    """
    Make a member the owner; the session then counts against its limits.

    The former owner becomes a writer. A client without a user cannot be a member, and
    is closed with 4003.

    Raises:
        SessionNotFound, MemberNotFound: there is no such member.
        TooManySessions: the user has as many sessions as allowed.
    """
    owner_id = name_user(user)
    limit = get_config().sessions.max_sessions_per_client
    with atomic():
        session = lock_session(session_id)
        if not _members(session_id, user).update(role=Role.OWNER):
            raise MemberNotFound
        if session.client_id == owner_id:
            return
        if limit:
            lock_client(owner_id)
            if Session.objects.filter(client_id=owner_id).count() >= limit:
                raise TooManySessions
        former = session.user_id
        Session.objects.filter(pk=session_id).update(client_id=owner_id, user=user)
        if former is not None and former != user.pk:
            SessionMember.objects.update_or_create(
                session_id=session_id, user_id=former, defaults={"role": Role.WRITER}
            )
        _announce(session_id)


def run_locked(session_id: str, work: Callable[[], Any]) -> Any:
    """
    Run work in one transaction, in which the members of a session do not change.

    Raises:
        SessionNotFound: the session does not exist.
    """
    with atomic():
        lock_session(session_id)
        return work()


def check_role(role: str) -> Role:
    """
    Return a role that a member can be given.

    Raises:
        ValueError: it is none.
    """
    if role not in GIVEN_ROLES:
        raise ValueError(f"role is {role!r}, not one of {', '.join(GIVEN_ROLES)}")
    return Role(role)


def _members(session_id: str, user: Any) -> Any:
    return SessionMember.objects.filter(session=session_id, user=user.pk)


def _is_owner(session: Session, user: Any) -> bool:
    return session.client_id == name_user(user)


def _require_room(session_id: str) -> None:
    members = SessionMember.objects.filter(session=session_id).count()
    invited = SessionInvitation.objects.open().filter(session=session_id).count()
    if members + invited >= MOST_MEMBERS:
        raise TooManyMembers


def _forget_ended(session_id: str) -> None:
    """Keep the newest of the invitations that nobody can redeem any more."""
    ended = SessionInvitation.objects.ended().filter(session=session_id)
    kept = list(ended.values_list("pk", flat=True)[:MOST_MEMBERS])
    if len(kept) == MOST_MEMBERS:
        ended.exclude(pk__in=kept).delete()


def _find_joined(session_id: str, role: str, user: Any) -> Joined | None:
    """Return the membership of a user that has a role or one with more rights."""
    session = Session.objects.filter(pk=session_id).first()
    if session is None:
        return None
    if _is_owner(session, user):
        return Joined(session_id=session_id, role=Role.OWNER)
    has = _members(session_id, user).values_list("role", flat=True).first()
    if has is None or _RANKS.index(Role(has)) < _RANKS.index(Role(role)):
        return None
    return Joined(session_id=session_id, role=Role(has))


def _join(session_id: str, role: Role, user: Any) -> tuple[Joined, bool]:
    """
    Make a user a member, in the transaction that took the invitation.

    Returns False too if the user has become one by other means since redeem() looked.
    """
    joined = _find_joined(session_id, role, user)
    if joined is not None:
        return joined, False
    if not _members(session_id, user).update(role=role):
        if SessionMember.objects.filter(session=session_id).count() >= MOST_MEMBERS:
            raise TooManyMembers
        SessionMember.objects.create(session_id=session_id, user=user, role=role)
    _announce(session_id)
    return Joined(session_id=session_id, role=role), True


def _explain(invitation: SessionInvitation | None) -> str:
    """Return why an invitation cannot be redeemed."""
    if invitation is None:
        return "unknown"
    if invitation.revoked_at is not None:
        return "revoked"
    if invitation.expires_at <= timezone.now():
        return "expired"
    return "used"


def _announce(session_id: str) -> None:
    """Make every node read the roles again, once the change is committed."""
    # Without the announcement the next check of positions reads them.
    transaction.on_commit(partial(_tell, session_id), using=get_alias(), robust=True)


def _tell(session_id: str) -> None:
    async def tell(log: SessionLog) -> None:
        log.attached.memberships.announce(session_id)
        await log.flush()

    writer_log.submit(tell).add_done_callback(partial(_report, session_id))


def _report(session_id: str, told: "Future[None]") -> None:
    if not told.cancelled() and told.exception() is not None:
        logger.warning(
            "The nodes learn of the members of %s later: %s",
            session_id,
            told.exception(),
            extra={"event": "members_unannounced"},
        )
