"""
Post close requests when a logout, a password or a permission changes.

Signal receivers, because Django is the caller. All take effect on the commit.
Changes without a signal (QuerySet.update) are found by access.reauthorisation.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.contrib.auth.signals import user_logged_out
from django.db import router, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save

from connections.announcements import REAUTHORISE, post_close_requests
from connections.credentials.sessions import digest_session_key
from connections.models import AccessToken, CloseRequest
from connections.models.alias import get_alias
from connections.models.user_key import release_user

Target = CloseRequest.Target

_AUTHOR = "Django"
_MOST_REQUESTS = 100
"""If a change concerns more users, all connections are checked."""


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
        _on_change(Group.permissions.through, _recheck_all)
        for model in (Group, Permission):
            _on_save(model, _recheck_all)
            _on_delete(model, _recheck_all)


def _on_save(model: Any, receiver: Any) -> None:
    post_save.connect(receiver, model, dispatch_uid=f"connections.save.{model}")


def _on_delete(model: Any, receiver: Any) -> None:
    post_delete.connect(receiver, model, dispatch_uid=f"connections.delete.{model}")


def _on_change(relation: Any, receiver: Any) -> None:
    uid = f"connections.change.{relation}"
    m2m_changed.connect(receiver, relation, dispatch_uid=uid)


def _post(target: Target, values: Iterable[object], reason: str, using: str) -> None:
    """
    Post close requests for a change in the database `using`, on its commit.

    In another database than that of the requests, a transaction does not include
    them: posted before its commit, they would be applied to the old rows.
    """
    requests = [
        CloseRequest(target=target, value=str(value), reason=reason, author=_AUTHOR)
        for value in values
    ]
    if using == get_alias():
        post_close_requests(*requests)
    else:
        transaction.on_commit(partial(post_close_requests, *requests), using=using)


def _end_session(request: Any, **kwargs: Any) -> None:
    """End the connections of a session that logs out."""
    session = getattr(request, "session", None)
    key = getattr(session, "session_key", None)
    if key:
        find_model = getattr(session, "get_model_class", None)
        using = router.db_for_write(find_model()) if find_model else get_alias()
        _post(Target.SESSION_KEY, [digest_session_key(key)], "logged_out", using)


def _on_user_saved(
    instance: Any,
    created: bool,
    raw: bool,
    update_fields: Any,
    using: str,
    **kwargs: Any,
) -> None:
    """
    End the connections of a deactivated user; recheck those of another.

    A session may depend on any field: on the password, or on those that a
    project's get_session_auth_hash() reads. A login saves last_login alone.
    """
    if created or raw or (update_fields and set(update_fields) <= {"last_login"}):
        return
    reason = REAUTHORISE if instance.is_active else "deactivated"
    _post(Target.USER, [instance.pk], reason, using)


def _end_user(instance: Any, using: str, **kwargs: Any) -> None:
    _post(Target.USER, [instance.pk], "deactivated", using)
    if using != get_alias():
        # Django deletes what refers to a user in the user's own database alone.
        transaction.on_commit(partial(release_user, instance.pk), using=using)


def _on_token_saved(
    instance: AccessToken, created: bool, using: str, **kwargs: Any
) -> None:
    if not created:
        reason = REAUTHORISE if instance.revoked_at is None else "revoked"
        _post(Target.TOKEN, [instance.pk], reason, using)


def _end_token(
    instance: AccessToken, using: str, origin: Any = None, **kwargs: Any
) -> None:
    """End the connections of a deleted token, unless its user was deleted."""
    if getattr(origin, "model", type(origin)) is AccessToken:
        _post(Target.TOKEN, [instance.pk], "revoked", using)


def _on_members_changed(
    instance: Any, action: str, reverse: bool, pk_set: Any, using: str, **kwargs: Any
) -> None:
    """Recheck the users that may have lost a group or a permission."""
    if action not in ("post_remove", "post_clear"):
        return
    keys = pk_set if reverse else {instance.pk}
    if keys is None or len(keys) > _MOST_REQUESTS:
        _recheck_all(action=action, using=using)
    else:
        _post(Target.USER, keys, REAUTHORISE, using)


def _recheck_all(
    using: str,
    action: str = "",
    created: bool = False,
    raw: bool = False,
    **kwargs: Any,
) -> None:
    """Recheck all connections, for a group or permission has changed."""
    if not created and not raw and action in ("", "post_remove", "post_clear"):
        _post(Target.ALL, [""], REAUTHORISE, using)
