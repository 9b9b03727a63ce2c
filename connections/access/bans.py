"""Impose and lift bans, on all nodes at once."""

from connections.announcements import announce, post_close_requests
from connections.models import Ban, CloseRequest


def impose(ban: Ban) -> None:
    """
    Save a ban, which counts from the commit, and end the connections it names.

    An existing ban of the same target and value takes the reason, author and
    end of the new one.

    Raises:
        ValidationError: the user does not exist, or the address is not valid.
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
    """Delete a ban on all nodes."""
    ban.delete()
    announce()
