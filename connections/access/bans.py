"""Impose and lift bans, on all nodes at once."""

from functools import partial

from django.db import transaction

from connections.announcements import announce, post_unrecorded
from connections.audit import record_ban
from connections.models import Ban, CloseRequest
from connections.models.alias import atomic, get_alias
from connections.signals import client_banned


def impose(ban: Ban) -> None:
    """
    Save a ban, which counts from the commit, and end the connections it names.

    An existing ban of the same target and value takes the reason, author and
    end of the new one. One that is over by then ends nothing.

    Raises:
        ValidationError: the user does not exist, or the address is not valid.
    """
    ban.normalise()
    known = Ban.objects.filter(target=ban.target, value=ban.value).first()
    if known is not None and ban.pk is None:
        ban.pk, ban.created_at = known.pk, known.created_at
        ban._state.adding = False
    with atomic():
        ban.save()
        record_ban("ban", ban, ban.author)
        if not Ban.objects.in_force().filter(pk=ban.pk).exists():
            announce()
            return
        post_unrecorded(
            CloseRequest(
                target=ban.target, value=ban.value, reason="banned", author=ban.author
            )
        )
        transaction.on_commit(
            partial(client_banned.send_soon, [ban]), using=get_alias(), robust=True
        )


def lift(ban: Ban, author: str = "") -> None:
    """Delete a ban on all nodes."""
    with atomic():
        record_ban("unban", ban, author)
        ban.delete()
        announce()
