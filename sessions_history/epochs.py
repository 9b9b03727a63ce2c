"""Renew the epoch of logs that went back in time; this runs in a database thread."""

import hashlib
import os

from sessions_history.models import Session, SessionQuerySet


def make_epoch() -> str:
    """Return the id of a new epoch."""
    return os.urandom(8).hex()


def make_first_epoch(session_id: str) -> str:
    """Return the epoch with which a session begins, whichever node begins it."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


def renew_epoch(session_id: str, epoch: str) -> bool:
    """Begin a new epoch of a session; return False if another node has done so."""
    found = Session.objects.filter(pk=session_id, epoch=epoch)
    return bool(found.update(epoch=make_epoch()))


def renew_epochs(sessions: SessionQuerySet, batch_size: int) -> int:
    """Begin a new epoch for each of some sessions, in batches; return how many."""
    renewed = 0
    pks = sessions.order_by("pk").values_list("pk", flat=True)
    last = ""
    while batch := list(pks.filter(pk__gt=last)[:batch_size]):
        for session_id in batch:
            found = Session.objects.filter(pk=session_id)
            renewed += found.update(epoch=make_epoch())
        last = batch[-1]
    return renewed
