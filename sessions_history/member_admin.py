"""Show the members and invitations of sessions in the admin, and end them there."""

from collections.abc import Callable

from django.contrib import admin, messages
from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections.actions.permissions import is_read_only
from connections.admin.read_only import ReadOnlyAdmin
from connections.admin.user_search import UserSearch
from connections.audit import acting, name_author, record
from connections.models import AuditEntry
from connections.models.alias import atomic
from connections.models.user_key import find_user_keys, get_users
from connections.units import count_of
from sessions_history import members
from sessions_history.exceptions import (
    MemberNotFound,
    OwnerStays,
    SessionNotFound,
    SessionsError,
)
from sessions_history.models import SessionInvitation, SessionMember


class _UserGone(SessionsError):
    """The user is gone: remove the member."""


class _ChangedByActions(ReadOnlyAdmin):
    """Rows that actions change, for staff with the permission to change them."""

    sortable_by = ()

    def has_manage_permission(self, request: HttpRequest) -> bool:
        """Return True if the user has the permission to change the rows."""
        name = f"{self.opts.app_label}.change_{self.opts.model_name}"
        return not is_read_only() and request.user.has_perm(name)


@admin.register(SessionMember)
class SessionMemberAdmin(UserSearch, _ChangedByActions):
    actions = ("make_writers", "make_readers", "remove")
    list_display = ("session_id", "user", "role", "created_at")
    list_filter = ("role",)
    ordering = ("-id",)
    search_fields = ("session__session_id",)
    search_help_text = "Search by the full id of a session, or a full user name."

    def has_delete_permission(
        self, request: HttpRequest, obj: models.Model | None = None
    ) -> bool:
        """Return True where a user is deleted, who takes the memberships along."""
        page = request.resolver_match.url_name if request.resolver_match else None
        own = f"{self.opts.app_label}_{self.opts.model_name}_"
        if obj is None or page is None or page.startswith(own) or is_read_only():
            return False
        return request.user.has_perm("sessions_history.delete_sessionmember")

    def list_searches(self, term: str) -> list[Q]:
        by_user = [Q(user=key) for key in find_user_keys(term, "iexact")]
        return [Q(session=term), *by_user]

    @admin.action(description="Make selected members writers", permissions=["manage"])
    def make_writers(self, request: HttpRequest, rows: QuerySet[SessionMember]) -> None:
        self._change_role(request, rows, "writer")

    @admin.action(description="Make selected members readers", permissions=["manage"])
    def make_readers(self, request: HttpRequest, rows: QuerySet[SessionMember]) -> None:
        self._change_role(request, rows, "reader")

    @admin.action(
        description="Remove selected members and end their connections",
        permissions=["manage"],
    )
    def remove(self, request: HttpRequest, rows: QuerySet[SessionMember]) -> None:
        def remove(row: SessionMember) -> None:
            members.remove_key(row.session_id, row.user_id)

        self._change(request, rows, "removed", remove)

    def _change_role(
        self, request: HttpRequest, rows: QuerySet[SessionMember], role: str
    ) -> None:
        def change(row: SessionMember) -> None:
            user = get_users().filter(pk=row.user_id).first()
            if user is None:
                raise _UserGone
            members.change_role(row.session_id, user, role)

        self._change(request, rows, f"role {role}", change)

    def _change(
        self,
        request: HttpRequest,
        rows: QuerySet[SessionMember],
        outcome: str,
        change: Callable[[SessionMember], None],
    ) -> None:
        changed = 0
        for row in rows:
            try:
                with acting(AuditEntry.Via.ADMIN, name_author(request.user)), atomic():
                    change(row)
                    record(
                        AuditEntry(
                            action="member",
                            target="user",
                            value=str(row.user_id),
                            facts={"session": row.session_id, "outcome": outcome},
                        )
                    )
            except (OwnerStays, _UserGone) as exc:
                self.message_user(request, f"{row}: {exc}", messages.ERROR)
            except (MemberNotFound, SessionNotFound):
                # Somebody else has removed it meanwhile.
                continue
            else:
                changed += 1
                self.log_change(request, row, f"{outcome.capitalize()}.")
        text = f"{count_of(changed, 'member')}: {outcome}."
        self.message_user(request, text, messages.SUCCESS)


@admin.register(SessionInvitation)
class SessionInvitationAdmin(_ChangedByActions):
    actions = ("revoke",)
    list_display = (
        "session_id",
        "role",
        "is_single_use",
        "author_id",
        "created_at",
        "expires_at",
        "used_at",
        "revoked_at",
    )
    list_select_related = ()
    ordering = ("-expires_at",)
    search_fields = ("session__session_id",)
    search_help_text = "Search by the full id of a session."

    def list_searches(self, term: str) -> list[Q]:
        return [Q(session=term)]

    @admin.action(description="Revoke selected invitations", permissions=["manage"])
    def revoke(self, request: HttpRequest, rows: QuerySet[SessionInvitation]) -> None:
        revoked = 0
        for row in rows.filter(revoked_at=None):
            with acting(AuditEntry.Via.ADMIN, name_author(request.user)), atomic():
                members.revoke(row.session_id, row.pk)
                record(
                    AuditEntry(
                        action="revoke",
                        target="invitation",
                        value=row.pk,
                        facts={"session": row.session_id},
                    )
                )
            revoked += 1
            self.log_change(request, row, "Revoked.")
        text = f"{count_of(revoked, 'invitation')} revoked; who joined stays a member."
        self.message_user(request, text, messages.SUCCESS)
