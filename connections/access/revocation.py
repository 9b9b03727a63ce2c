"""
Post close requests when a logout, a password or a permission changes.

Signal receivers, because Django is the caller. All take effect on the commit.
Changes without a signal (QuerySet.update), and those whose requests the database
did not take, are found by access.reauthorisation.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.contrib.auth.signals import user_logged_out
from django.db import Error as DatabaseError
from django.db import connections, router, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save

from connections.access.changes import Change, take_change, watch_changes
from connections.announcements import REAUTHORISE, post_close_requests
from connections.audit import acting
from connections.credentials.requirements import has_stock_permissions
from connections.credentials.sessions import digest_session_key
from connections.metrics.counters import record_failure
from connections.models import AccessToken, AuditEntry, CloseRequest
from connections.models.alias import get_alias, get_connection
from connections.models.user_key import release_user
from connections.storage.failures import explain_failure

logger = logging.getLogger(__name__)

Target = CloseRequest.Target

_AUTHOR = "Django"
_RIGHTS = frozenset(("is_active", "is_staff", "is_superuser"))
_Key = tuple[str, str, str]
"""The target, value and reason of a close request."""

_MOST_REQUESTS = 100
"""If a transaction concerns more users, all connections are checked."""


def watch() -> None:
    """Connect the receivers; called once, when the app is ready."""
    users = get_user_model()
    user_logged_out.connect(_end_session, dispatch_uid="connections.logout")
    # Django sends the signals of a proxy and of a child model with that model.
    watched: list[Any] = list(_find_models(users))
    for kind in watched:
        _on_save(kind, _on_user_saved)
        _on_delete(kind, _end_user)
    _on_save(AccessToken, _on_token_saved)
    _on_delete(AccessToken, _end_token)
    if issubclass(users, PermissionsMixin):
        for name in ("groups", "user_permissions"):
            # A project's model may have none: `groups = None`.
            relation = getattr(getattr(users, name, None), "through", None)
            if relation is not None:
                _on_change(relation, _on_members_changed)
        _on_change(Group.permissions.through, _recheck_all)
        for model in (Group, Permission):
            _on_save(model, _on_right_saved)
            _on_delete(model, _recheck_all)
            watched.append(model)
    watch_changes(watched)


def _find_models(model: type[Any]) -> Iterator[type[Any]]:
    """Yield a model with its proxies and children."""
    yield model
    for child in model.__subclasses__():
        yield from _find_models(child)


def _on_save(model: Any, receiver: Any) -> None:
    post_save.connect(receiver, model, dispatch_uid=f"connections.save.{model}")


def _on_delete(model: Any, receiver: Any) -> None:
    post_delete.connect(receiver, model, dispatch_uid=f"connections.delete.{model}")


def _on_change(relation: Any, receiver: Any) -> None:
    uid = f"connections.change.{relation}"
    m2m_changed.connect(receiver, relation, dispatch_uid=uid)


class _Posting:
    """
    The close requests that one transaction has posted, or posts on its commit.

    Django keeps it with the functions that run on the commit, and drops it with the
    savepoint that is rolled back.
    """

    def __init__(self, keys: list[_Key], requests: list[CloseRequest]) -> None:
        self.keys = keys
        self._requests = requests

    def __call__(self) -> None:
        """Post the requests, unless that was tried."""
        requests, self._requests = self._requests, []
        if requests:
            with (
                _contain("Close requests were not posted"),
                acting(AuditEntry.Via.RULE),
            ):
                post_close_requests(*requests)


def _post(target: Target, values: Iterable[object], reason: str, using: str) -> None:
    """
    Post close requests for a change in the database `using`, on its commit.

    A transaction posts each request once, and after many for users one for all
    connections. In another database than that of the requests, a transaction does
    not include them: posted before its commit, they would be applied to the old
    rows.
    """
    hooks = [one[1] for one in connections[using].run_on_commit]
    earlier = {key for one in hooks if isinstance(one, _Posting) for key in one.keys}
    recheck_all: _Key = (Target.ALL, "", REAUTHORISE)
    keys: list[_Key] = [(target, str(value), reason) for value in values]
    keys = [key for key in keys if key not in earlier]
    if reason == REAUTHORISE:
        if recheck_all in earlier:
            return
        if len(earlier) + len(keys) > _MOST_REQUESTS:
            keys = [recheck_all]
    if not keys:
        return
    requests = [
        CloseRequest(target=target, value=value, reason=reason, author=_AUTHOR)
        for target, value, reason in keys
    ]
    posting = _Posting(keys, requests)
    if using == get_alias():
        posting()
    # Without a transaction on_commit() connects, and raises if the database is away.
    if connections[using].in_atomic_block:
        transaction.on_commit(posting, using=using)
    else:
        posting()


@contextmanager
def _contain(failure: str) -> Iterator[None]:
    """
    Log and count an error of the database of these tables.

    The logout, save, commit or migration of the project that is the caller goes on:
    the database may be away, or have no tables yet.

    Raises:
        DatabaseError: it ended the caller's transaction, which must not seem to commit.
    """
    try:
        yield
    except DatabaseError as exc:
        record_failure("A receiver of Django's signals")
        database = get_connection()
        if database.in_atomic_block and (
            # The savepoint was lost with the transaction around it.
            database.needs_rollback or database.closed_in_transaction
        ):
            raise
        logger.error(
            "%s: %s",
            failure,
            explain_failure(exc),
            extra={"event": "close_requests_failed"},
        )


def _end_session(request: Any, user: Any = None, **kwargs: Any) -> None:
    """
    End the connections of a session that logs out.

    A logout without a session is that of another credential, for example of
    django-rest-knox: the credentials of the user are checked.
    """
    session = getattr(request, "session", None)
    key = getattr(session, "session_key", None)
    if key:
        find_model = getattr(session, "get_model_class", None)
        using = router.db_for_write(find_model()) if find_model else get_alias()
        _post(Target.SESSION_KEY, [digest_session_key(key)], "logged_out", using)
    elif getattr(user, "pk", None) is not None:
        _post(Target.USER, [user.pk], REAUTHORISE, get_alias())


def _on_user_saved(
    instance: Any,
    created: bool,
    raw: bool,
    update_fields: Any,
    using: str,
    **kwargs: Any,
) -> None:
    """
    End the connections of a deactivated user; recheck those of one who lost a right.

    A login saves last_login, and a middleware of a project may save a field with
    each request: neither concerns a connection.
    """
    change = take_change(instance, update_fields)
    if created or raw:
        return
    if change is None or _concerns_connections(instance, change):
        reason = REAUTHORISE if instance.is_active else "deactivated"
        _post(Target.USER, [instance.pk], reason, using)


def _concerns_connections(user: Any, change: Change) -> bool:
    """Return True if a changed field decides about a right or a session of a user."""
    fields = change.fields - {"last_login"}
    if not fields:
        return False
    if fields & _RIGHTS or not has_stock_permissions():
        return True
    # A project's own method may read any field.
    find_hash = getattr(user, "get_session_auth_hash", None)
    return (
        find_hash is not None and change.before.get_session_auth_hash() != find_hash()
    )


def _end_user(instance: Any, using: str, **kwargs: Any) -> None:
    _post(Target.USER, [instance.pk], "deactivated", using)
    if using != get_alias():
        # Django deletes what refers to a user in the user's own database alone.
        transaction.on_commit(partial(_release_user, instance.pk), using=using)


def _release_user(key: Any) -> None:
    with _contain("The references to a deleted user were not cleared"):
        release_user(key)


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
    if pk_set is not None and not pk_set:
        return
    keys = pk_set if reverse else {instance.pk}
    if keys is None:
        _recheck_all(using=using)
    else:
        _post(Target.USER, keys, REAUTHORISE, using)


def _on_right_saved(
    instance: Any,
    created: bool,
    raw: bool,
    update_fields: Any,
    using: str,
    **kwargs: Any,
) -> None:
    """Recheck all connections if a group or permission was changed."""
    change = take_change(instance, update_fields)
    if created or raw:
        return
    if change is None or change.fields:
        _recheck_all(using=using)


def _recheck_all(
    using: str, action: str = "", pk_set: Any = None, **kwargs: Any
) -> None:
    """Recheck all connections, because a group or permission was lost."""
    is_empty = pk_set is not None and not pk_set
    if action in ("", "post_remove", "post_clear") and not is_empty:
        _post(Target.ALL, [""], REAUTHORISE, using)
