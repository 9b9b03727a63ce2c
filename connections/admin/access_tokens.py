"""Access tokens in the admin: staff create and revoke them, but never edit them."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections.actions.permissions import is_read_only, may_act_for
from connections.admin.user_search import UserSearch
from connections.announcements import post_close_requests
from connections.audit import acting, name_author
from connections.credentials.identity import API_SCOPES, check_client_id, check_scope
from connections.credentials.tokens import issue
from connections.dashboard.permissions import GuardedAdmin
from connections.dashboard.time_columns import show_times
from connections.models import AccessToken, AuditEntry, CloseRequest
from connections.models.alias import atomic

_FOLDER = "admin/connections/accesstoken"


class AccessTokenForm(forms.ModelForm):  # type: ignore[type-arg]
    """The fields of a new token; `author` is the staff user that creates it."""

    author: Any

    scopes = forms.CharField(
        required=False,
        strip=True,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="One scope per line: a path such as /ws/chat/ (and all below it), "
        "or a route, written as its URL pattern. Empty: all routes. For the operators' "
        f"API name its scopes: {', '.join(API_SCOPES)}.",
    )

    class Meta:
        model = AccessToken
        fields = ("client_id", "user", "scopes", "expires_at")

    def clean(self) -> dict[str, Any]:
        fields = self.cleaned_data
        user = fields.get("user")
        if user is not None and not may_act_for(self.author, user):
            self.add_error(
                "user",
                "You may not create access tokens for this user: it needs the "
                "permission to create them for other users, and all permissions that "
                "the user has.",
            )
        elif "client_id" in fields:
            try:
                check_client_id(fields["client_id"], user)
            except ValueError as exc:
                self.add_error("client_id", str(exc))
        return fields

    def clean_scopes(self) -> list[str]:
        scopes = [line.strip() for line in self.cleaned_data["scopes"].splitlines()]
        scopes = [scope for scope in scopes if scope]
        for scope in scopes:
            try:
                check_scope(scope)
            except ValueError as exc:
                raise forms.ValidationError(str(exc)) from exc
        return scopes

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("Enter a time in the future, or none.")
        return expires_at


class StateFilter(admin.SimpleListFilter):
    """Filter by valid, expired or revoked."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in AccessToken.STATES]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        state = self.value()
        return queryset.in_state(state) if state in AccessToken.STATES else queryset


class AccessTokenAdmin(UserSearch, GuardedAdmin):
    """Tokens cannot be edited: open connections would keep the old values."""

    form = AccessTokenForm
    actions = ("revoke",)
    list_display = (
        "hint",
        "client_id",
        "user",
        "state",
        "shown_scopes",
        "last_used_at",
        "expires_at",
        "created_at",
    )
    list_filter = (StateFilter,)
    searched_key = "hint"
    search_fields = ("hint",)
    raw_id_fields = ("user",)
    change_form_template = f"{_FOLDER}/change_form.html"
    show_full_result_count = False
    list_per_page = 50

    @admin.display(description="state")
    def state(self, row: AccessToken) -> str:
        if row.revoked_at is not None:
            return "revoked"
        if row.expires_at is not None and row.expires_at <= timezone.now():
            return "expired"
        return "valid"

    @admin.display(description="scopes")
    def shown_scopes(self, row: AccessToken) -> str:
        return ", ".join(row.scopes) or "everywhere"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        if obj is None:
            return list(self.form.Meta.fields)
        return show_times(AccessToken, self.list_display)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [] if obj is None else show_times(AccessToken, self.list_display)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        # Django makes a new class for each request.
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.author = request.user
        return form

    def has_change_permission(
        self, request: HttpRequest, obj: AccessToken | None = None
    ) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Return True if the user has the permission to change tokens."""
        may_change = request.user.has_perm("connections.change_accesstoken")
        return not is_read_only() and may_change

    def save_model(
        self, request: HttpRequest, obj: AccessToken, form: Any, change: bool
    ) -> None:
        with acting(AuditEntry.Via.ADMIN, name_author(request.user)):
            issue(obj)

    def response_add(
        self, request: HttpRequest, obj: AccessToken, post_url_continue: Any = None
    ) -> HttpResponse:
        """Show the token once; later only its hash is known."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Access token created",
            "original": obj,
            "token": obj.token,
        }
        return TemplateResponse(request, f"{_FOLDER}/created.html", context)

    @admin.action(
        description="Revoke selected access tokens and end their connections",
        permissions=["revoke"],
    )
    def revoke(self, request: HttpRequest, rows: QuerySet[AccessToken]) -> None:
        with atomic():
            revoked = AccessToken.objects.filter(pk__in=rows.values("pk")).revoke()
            _end_connections(request, revoked)
            for row in AccessToken.objects.filter(pk__in=revoked):
                self.log_change(request, row, "Revoked.")
        message = (
            f"{len(revoked)} access tokens revoked; their connections are being ended."
        )
        self.message_user(request, message, messages.SUCCESS)

    def delete_model(self, request: HttpRequest, obj: AccessToken) -> None:
        key = obj.pk
        super().delete_model(request, obj)
        _end_connections(request, [key])

    def delete_queryset(
        self, request: HttpRequest, queryset: QuerySet[AccessToken]
    ) -> None:
        keys = list(queryset.values_list("pk", flat=True))
        with atomic():
            super().delete_queryset(request, queryset)
            _end_connections(request, keys)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"may_revoke": self.has_revoke_permission(request)}
        return super().change_view(
            request, object_id, form_url, {**context, **(extra_context or {})}
        )

    def list_pages(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self._revoke_view))
        name = "connections_accesstoken_revoke"
        return [path("<path:object_id>/revoke/", view, name=name)]

    def _revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revoke one token, from the button on its page."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if row is not None:
            self.revoke(request, AccessToken.objects.filter(pk=row.pk))
        changelist = f"{self.admin_site.name}:connections_accesstoken_changelist"
        return HttpResponseRedirect(reverse(changelist))


def _end_connections(request: HttpRequest, token_ids: Sequence[int]) -> None:
    """Ask the nodes to end the connections of these tokens."""
    with acting(AuditEntry.Via.ADMIN):
        post_close_requests(
            *(
                CloseRequest(
                    target=CloseRequest.Target.TOKEN,
                    value=str(token_id),
                    reason="revoked",
                    author=name_author(request.user),
                )
                for token_id in token_ids
            )
        )
