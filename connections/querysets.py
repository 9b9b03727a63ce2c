"""Queries by name; every one runs on SQLite and PostgreSQL alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.db.models import Count, F, Max, OuterRef, Q, Subquery
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, Now

if TYPE_CHECKING:
    from connections.models import (  # noqa: F401 (some are named in bases only)
        AccessToken,
        Ban,
        CloseRequest,
        Connection,
        Node,
        Sweep,
        Ticket,
    )

LIVE_STATES = ("serving", "draining")


def digest_token(token: str) -> str:
    """Return what is stored of a token: SHA-256, for it has 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class NodeQuerySet(models.QuerySet["Node"]):
    def live(self) -> NodeQuerySet:
        """Nodes that have neither stopped nor been taken for dead."""
        return self.filter(state__in=LIVE_STATES)

    def serving_within(self, seconds: float) -> NodeQuerySet:
        """Nodes that take connections and beat so recently, by the database's clock."""
        return self.filter(
            state="serving", beat_at__gte=Now() - timedelta(seconds=seconds)
        )

    def elders_of(self, node_id: str | None) -> NodeQuerySet:
        """Nodes that began before one, by moment and then id; all, for None."""
        if node_id is None:
            return self.all()
        own = self.filter(node_id=node_id).first()
        if own is None:
            return self.none()
        is_earlier = Q(started_at__lt=own.started_at)
        return self.filter(
            is_earlier | Q(started_at=own.started_at, node_id__lt=own.node_id)
        )

    def silent_since(self, moment: datetime | Combinable) -> NodeQuerySet:
        """Live nodes whose last beat is older than a moment of the database's clock."""
        return self.live().filter(beat_at__lt=moment)

    def gone_before(self, moment: datetime) -> NodeQuerySet:
        """Nodes that ended before a moment."""
        return self.exclude(state__in=LIVE_STATES).filter(stopped_at__lt=moment)

    def lost_since(self, moment: datetime | Combinable) -> NodeQuerySet:
        """Nodes that were found dead after a moment."""
        return self.filter(state="lost", stopped_at__gte=moment)

    def with_minutes(self) -> NodeQuerySet:
        """Nodes that show minutes for a sweeper to take over."""
        unfinished = ~Q(state__in=LIVE_STATES) & ~Q(minute={})
        return self.filter(~Q(unrolled=[]) | unfinished).order_by("node_id")

    def beat(self, **facts: Any) -> int:
        """Move the counters of the nodes selected; return how many there are."""
        return self.update(beat=F("beat") + 1, beat_at=Now(), **facts)

    def mark_lost(self, node: Node) -> bool:
        """Record a node as dead, unless it has beaten since it was read."""
        unchanged = self.live().filter(
            node_id=node.node_id, beat=node.beat, generation=node.generation
        )
        return bool(unchanged.update(state="lost", stopped_at=Now()))


class ConnectionQuerySet(models.QuerySet["Connection"]):
    def open(self) -> ConnectionQuerySet:
        """Connections not recorded as closed."""
        return self.filter(closed_at=None)

    def find(self, ref: str) -> Connection | None:
        """Return the connection that a ref means: its own id, or an error's."""
        meant = Q(connection_id=ref) | Q(error_events__error_id=ref)
        return self.filter(meant).first()

    def idle_since(self, moment: datetime) -> ConnectionQuerySet:
        """Open connections without application data since a moment."""
        return self.open().filter(last_activity_at__lte=moment)

    def timed_as_configured(self) -> ConnectionQuerySet:
        """Connections whose consumer gave them no idle timeout of their own."""
        return self.filter(idle_timeout_seconds=None)

    def of_dead_nodes(self) -> ConnectionQuerySet:
        """Open connections whose node has stopped, is lost, or is forgotten."""
        live = _nodes_of(self).filter(state__in=LIVE_STATES)
        return self.open().exclude(node_id__in=live.values("node_id"))

    def mark_lost(self, batch_size: int) -> int:
        """
        Record as lost some open connections whose node is gone; return how many.

        Their end is put at the node's last beat, the last time anyone saw them.
        """
        gone = _nodes_of(self).filter(node_id=OuterRef("node_id"))
        with transaction.atomic():
            lost = self.of_dead_nodes().order_by("connection_id")[:batch_size]
            keys = list(lost.values_list("connection_id", flat=True))
            return (
                self.open()
                .filter(connection_id__in=keys)
                .update(
                    closed_at=Coalesce(
                        Subquery(gone.values("beat_at")), F("last_activity_at")
                    ),
                    close_code=1006,
                    reason="lost",
                )
            )


def _nodes_of(connections: ConnectionQuerySet) -> NodeQuerySet:
    # The models import this module, so that it cannot name them.
    model: Any = connections.model.node.field.related_model
    nodes: NodeQuerySet = model.objects.all()
    return nodes


class AccessTokenQuerySet(models.QuerySet["AccessToken"]):
    def find_all(self, tokens: Iterable[str]) -> dict[str, AccessToken]:
        """
        Return the rows of tokens by digest, whatever their state, with their users.

        The look-up is by hash, so its timing tells nothing about a token.
        """
        digests = {digest_token(token) for token in tokens}
        rows = self.select_related("user").filter(digest__in=digests)
        return {row.digest: row for row in rows}

    def revoke(self) -> list[int]:
        """Revoke the tokens selected for good; return those that were not before."""
        with transaction.atomic():
            valid = self.filter(revoked_at=None).select_for_update()
            keys = list(valid.values_list("pk", flat=True))
            self.model._default_manager.filter(pk__in=keys).update(revoked_at=Now())
        return keys


class BanQuerySet(models.QuerySet["Ban"]):
    def in_force(self) -> BanQuerySet:
        """Bans that have not ended, by the database's clock."""
        return self.filter(Q(until=None) | Q(until__gt=Now()))

    def find_version(self) -> tuple[Any, ...]:
        """Return what is another whenever a ban was made, saved or deleted."""
        found = self.aggregate(Count("pk"), Max("pk"), Max("changed_at"))
        return tuple(found.values())


class TicketQuerySet(models.QuerySet["Ticket"]):
    def younger_than(self, seconds: float) -> TicketQuerySet:
        """Tickets given out lately, used or not, by the database's clock."""
        return self.filter(issued_at__gt=Now() - timedelta(seconds=seconds))

    def older_than(self, seconds: float) -> TicketQuerySet:
        """Tickets that are of no more use."""
        return self.filter(issued_at__lte=Now() - timedelta(seconds=seconds))

    def take(self, ticket: str, lifetime_seconds: float) -> Ticket | None:
        """
        Use a ticket up and return its row; None if it is used, too old or none.

        Of any number who try at once, on any nodes, one succeeds: the update is
        conditional, and the database does them one after another.
        """
        usable = self.younger_than(lifetime_seconds).filter(
            digest=digest_token(ticket), used_at=None
        )
        row = usable.select_related("token__user").first()
        if row is None or not usable.update(used_at=Now(), session_key=""):
            return None
        return row


class CloseRequestQuerySet(models.QuerySet["CloseRequest"]):
    def recent(self, seconds: float = 60) -> CloseRequestQuerySet:
        """Requests young enough to be applied still, by the database's clock."""
        return self.filter(created_at__gte=Now() - timedelta(seconds=seconds))

    def post(self, requests: Sequence[CloseRequest]) -> None:
        """Write requests; announcements.post_close_requests() has them applied now."""
        self.bulk_create(requests, batch_size=200)


class SweepQuerySet(models.QuerySet["Sweep"]):
    def take(self, name: str, holder_id: str, timeout_seconds: float) -> bool:
        """Take or keep the right to sweep, unless another holds it and is alive."""
        self.get_or_create(name=name)
        free = Q(holder_id__in=("", holder_id)) | Q(held_at=None)
        silent = Q(held_at__lt=Now() - timedelta(seconds=timeout_seconds))
        return bool(
            self.filter(free | silent, name=name).update(
                holder_id=holder_id, held_at=Now()
            )
        )

    def give_up(self, name: str, holder_id: str) -> None:
        """Let another sweeper begin at once."""
        self.filter(name=name, holder_id=holder_id).update(holder_id="", held_at=None)


def delete_some(rows: models.QuerySet[Any], batch_size: int) -> int:
    """Delete at most batch_size rows in one short transaction; return how many."""
    keys = list(rows.order_by().values_list("pk", flat=True)[:batch_size])
    if not keys:
        return 0
    count: int = rows.model._default_manager.filter(pk__in=keys)._raw_delete(rows.db)
    return count
