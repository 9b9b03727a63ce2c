"""
Forget persons: end their connections, erase their rows in short transactions.

A request is a row, so that a sweeper goes on where a command or a sweeper ended.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.signals import pre_delete

from connections.announcements import FORGET, post_unrecorded
from connections.audit import acting, get_source, record
from connections.config.loader import WebSocketConfig, get_config
from connections.exceptions import PresenceUnavailable
from connections.models import AuditEntry, CloseRequest, Connection, ForgetRequest
from connections.models.alias import atomic, get_alias, get_connection
from connections.personal_data.person import Person, find_user_person, read_person
from connections.personal_data.tables import PersonalTable, get_personal_tables
from connections.pool import choose_pool, get_redis_url
from connections.pool.postgres import delete_tombstones
from connections.presence.rooms import name_member
from connections.presence.stores import forget_members
from connections.sweeper.tasks import SweepTask, Unfinished, add_sweep_task

BATCH_SIZE = 500
_STEP_SECONDS = 1
"""How long a sweep erases until it looks for other work."""

OnBatch = Callable[[str, int, Callable[[], int]], None]
"""Called with a table, the rows that were erased, and a count of those left."""


def register() -> None:
    """Register the sweep, and watch deletions of users; called once."""
    add_sweep_task(
        SweepTask(
            name="persons_forgotten",
            count=_count_due,
            work=_forget_due,
        )
    )
    pending = list(_find_models(get_user_model()))
    for model in pending:
        uid = f"connections.forget.{model}"
        pre_delete.connect(_on_user_deleted, model, dispatch_uid=uid)


def begin(person: Person) -> ForgetRequest:
    """Write the request to forget a person, and end its connections."""
    via, actor = get_source()
    request = ForgetRequest(
        pseudonym=f"forgotten:{secrets.token_hex(8)}",
        client_ids=person.client_ids,
        user_key="" if person.user_key is None else str(person.user_key),
        user_name=person.user_name,
        addresses=person.addresses,
        actor="" if actor == person.user_name else actor,
        via=via,
    )
    targets = [("client", one) for one in person.client_ids]
    if request.user_key:
        targets.append(("user", request.user_key))
    with atomic():
        request.save(force_insert=True)
        # Also without open connections: nodes have counts of the last minutes.
        post_unrecorded(
            *(
                CloseRequest(target=target, value=value, reason=FORGET)
                for target, value in targets
            )
        )
    return request


def find_open(request: ForgetRequest) -> QuerySet[Connection]:
    """Return the open connections of a person, whose node would write its name."""
    return Connection.objects.open().filter(read_person(request).owns())


def erase(
    request: ForgetRequest, config: WebSocketConfig, on_batch: OnBatch | None = None
) -> dict[str, int]:
    """
    Erase a person whose connections have ended; return the rows by table.

    Each batch is a transaction of its own. May be called again after a failure.

    Raises:
        PresenceUnavailable: the stores of the nodes did not answer in time.
    """
    person = read_person(request)
    for table in _erase_batches(request, config):
        if on_batch is not None:
            done = request.counts[table.name]
            on_batch(table.name, done, partial(table.count_left, person))
    return dict(request.counts)


def _erase_batches(
    request: ForgetRequest, config: WebSocketConfig
) -> Iterator[PersonalTable]:
    """Erase a batch for each step, yield its table, and finish the request."""
    person = read_person(request)
    _clear_shared(person, config)
    own = ForgetRequest.objects.filter(pk=request.pk)
    for table in get_personal_tables():
        erased = BATCH_SIZE
        while erased == BATCH_SIZE:
            erased = table.erase_some(person, request.pseudonym, BATCH_SIZE)
            if erased:
                done = request.counts.get(table.name, 0) + erased
                request.counts[table.name] = done
                own.update(counts=request.counts)
                yield table
    with atomic():
        is_first = own.delete()[0]
        if is_first and request.counts:
            with acting(request.via, request.actor):
                record(AuditEntry(action="forget", facts={"person": request.pseudonym}))


def _clear_shared(person: Person, config: WebSocketConfig) -> None:
    """Remove a person from pool and presence, where it lingers."""
    members = {name_member(one) for one in person.client_ids}
    if person.user_key is not None:
        members.add(f"user:{person.user_key}")
    if choose_pool(config, get_redis_url()) == "postgres":
        delete_tombstones(person.client_ids)
    # In this thread, whose connection to the database it takes.
    async_to_sync(forget_members)(config, sorted(members))


def _count_due(config: WebSocketConfig) -> int:
    return sum(1 for one in ForgetRequest.objects.all() if _is_due(one))


def _is_due(request: ForgetRequest) -> bool:
    """Return True if the person has no open connection."""
    return not find_open(request).exists()


def _forget_due(config: WebSocketConfig, batch_size: int) -> int:
    """
    Erase for about a second; return how many persons are forgotten.

    A person that cannot be erased delays no other.

    Raises:
        PresenceUnavailable: the stores of the nodes did not answer in time.
        Exception: what kept the first of the persons that cannot be erased.
    """
    ends_at = time.monotonic() + _STEP_SECONDS
    count, failure = 0, None
    for request in ForgetRequest.objects.all():
        try:
            if not _is_due(request):
                continue
            if not _erase_until(ends_at, request, config):
                # The next step meets what failed again.
                return Unfinished(count)
            count += 1
        except PresenceUnavailable:
            raise
        except Exception as exc:
            database = get_connection()
            if database.errors_occurred and not database.is_usable():
                raise
            exc.add_note(f"It keeps the person of {request} from being forgotten.")
            failure = failure or exc
    if failure is not None:
        raise failure
    return count


def _erase_until(
    ends_at: float, request: ForgetRequest, config: WebSocketConfig
) -> bool:
    """Erase a person; return False if time was up before the end."""
    return all(time.monotonic() < ends_at for _ in _erase_batches(request, config))


def _find_models(model: type[Any]) -> Iterator[type[Any]]:
    """Yield a model with its proxies and children, whose signals are their own."""
    yield model
    for child in model.__subclasses__():
        yield from _find_models(child)


def _on_user_deleted(instance: Any, using: str, **kwargs: Any) -> None:
    """
    Write the request to forget a user before its rows lose the reference to it.

    It counts from the commit of the deletion.
    """
    if not get_config().privacy.forget_deleted_users:
        return
    person = find_user_person(instance)
    if using == get_alias():
        _begin_as_rule(person)
    else:
        transaction.on_commit(partial(_begin_as_rule, person), using=using)


def _begin_as_rule(person: Person) -> None:
    with acting(AuditEntry.Via.RULE, "Django"):
        begin(person)
