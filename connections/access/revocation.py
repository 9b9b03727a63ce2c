"""
What Django says when a right ends, passed on to the nodes.

Signal receivers, because Django is the caller: a logout, a saved password, a
removed group. All take effect on the commit. What Django does not tell
(QuerySet.update) the nodes find by themselves, see reauthorisation.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import m2m_changed, post_delete, post_save

from connections.announcements import REAUTHORISE, post_close_requests
from connections.credentials.sessions import digest_session_key
from connections.models import AccessToken, CloseRequest

Target = CloseRequest.Target

_AUTHOR = "Django"
_MOST_REQUESTS = 100
"""Where more users are concerned than this, all connections are looked at."""


def watch() -> None:
    """Connect the receivers; called once, when the app is ready."""
    users = get_user_model()
    user_logged_out.connect(_end_session, dispatch_uid="connections.logout")
    _on_save(users, _on_user_saved)
    _on_delete(users, _end_user)
    _on_save(AccessToken, _on_token_saved)
    _on_delete(AccessToken, _end_token)
    if issubclass(users, PermissionsMixin):
        for relation in (users.groups.through, users.user_permissions.through):
            _on_change(relation, _on_members_changed)
        _on_change(Group.permissions.through, _recheck_everybody)
        for model in (Group, Permission):
            _on_save(model, _recheck_everybody)
            _on_delete(model, _recheck_everybody)


def _on_save(model: Any, receiver: Any) -> None:
    post_save.connect(receiver, model, dispatch_uid=f"connections.save.{model}")


def _on_delete(model: Any, receiver: Any) -> None:
    post_delete.connect(receiver, model, dispatch_uid=f"connections.delete.{model}")


def _on_change(relation: Any, receiver: Any) -> None:
    uid = f"connections.change.{relation}"
    m2m_changed.connect(receiver, relation, dispatch_uid=uid)


def _post(target: Target, values: Iterable[object], reason: str) -> None:
    post_close_requests(
        *(
            CloseRequest(target=target, value=str(value), reason=reason, author=_AUTHOR)
            for value in values
        )
    )


def _end_session(request: Any, **kwargs: Any) -> None:
    """End the connections of the session that somebody logs out of."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        _post(Target.SESSION_KEY, [digest_session_key(key)], "logged_out")


def _on_user_saved(
    instance: Any, created: bool, raw: bool, update_fields: Any, **kwargs: Any
) -> None:
    """
    End a deactivated user's connections; have the others looked at.

    What a session rests on may be any field: the password, or what a project's
    own get_session_auth_hash() reads. A login saves last_login alone.
    """
    if created or raw or (update_fields and set(update_fields) <= {"last_login"}):
        return
    reason = REAUTHORISE if instance.is_active else "deactivated"
    _post(Target.USER, [instance.pk], reason)


def _end_user(instance: Any, **kwargs: Any) -> None:
    _post(Target.USER, [instance.pk], "deactivated")


def _on_token_saved(instance: AccessToken, created: bool, **kwargs: Any) -> None:
    if not created:
        reason = REAUTHORISE if instance.revoked_at is None else "revoked"
        _post(Target.TOKEN, [instance.pk], reason)


def _end_token(instance: AccessToken, origin: Any = None, **kwargs: Any) -> None:
    """End a deleted token's connections; with its user goes the user's request."""
    if getattr(origin, "model", type(origin)) is AccessToken:
        _post(Target.TOKEN, [instance.pk], "revoked")


def _on_members_changed(
    instance: Any, action: str, reverse: bool, pk_set: Any, **kwargs: Any
) -> None:
    """Look at the users who may have lost a group or a permission."""
    if action not in ("post_remove", "post_clear"):
        return
    keys = pk_set if reverse else {instance.pk}
    if keys is None or len(keys) > _MOST_REQUESTS:
        _recheck_everybody(action=action)
    else:
        _post(Target.USER, keys, REAUTHORISE)


def _recheck_everybody(
    action: str = "", created: bool = False, raw: bool = False, **kwargs: Any
) -> None:
    """Look at everybody, for what was lost is a group's or a permission's."""
    if not created and not raw and action in ("", "post_remove", "post_clear"):
        _post(Target.ALL, [""], REAUTHORISE)
