"""Bans, made and lifted: on every node at once."""

from connections.announcements import announce, post_close_requests
from connections.models import Ban, CloseRequest


def impose(ban: Ban) -> None:
    """
    Keep out whom a ban names, from its commit, and end their connections.

    A ban of the same target and value takes the new one's reason, author and
    end.

    Raises:
        ValidationError: there is no such user, or it is no address.
    """
    ban.clean()
    known = Ban.objects.filter(target=ban.target, value=ban.value).first()
    if known is not None and ban.pk is None:
        ban.pk, ban.created_at = known.pk, known.created_at
        ban._state.adding = False
    ban.save()
    post_close_requests(
        CloseRequest(
            target=ban.target, value=ban.value, reason="banned", author=ban.author
        )
    )


def lift(ban: Ban) -> None:
    """Let those in again whom a ban keeps out."""
    ban.delete()
    announce()
