"""
Take each append of a producer once: Durable Streams, section 5.2.1.

This module runs in a database thread, in the transaction of the append, which has
locked the session.
"""

from dataclasses import dataclass

from connections.models.clock import Now
from sessions_history.exceptions import (
    AppendedBefore,
    EpochBegunLate,
    SequenceGap,
    StaleProducer,
)
from sessions_history.models import StreamProducer

_MOST_PRODUCERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerStep:
    """One append of a producer."""

    producer: str
    epoch: int
    sequence: int


def check_step(session_id: str, step: ProducerStep) -> None:
    """
    Check that an append is the next one of its producer.

    Raises:
        StaleProducer, EpochBegunLate, SequenceGap, AppendedBefore: it is not.
    """
    rows = StreamProducer.objects.filter(session=session_id, producer=step.producer)
    epoch, last = rows.values_list("epoch", "sequence").first() or (-1, -1)
    if step.epoch < epoch:
        raise StaleProducer(epoch)
    if step.epoch > epoch:
        if step.sequence and epoch >= 0:
            raise EpochBegunLate
        last = -1
    if step.sequence <= last:
        raise AppendedBefore(last)
    if step.sequence > last + 1:
        raise SequenceGap(last + 1)


def record_step(session_id: str, step: ProducerStep) -> None:
    """Record the last append of a producer."""
    own = StreamProducer.objects.filter(session=session_id)
    _, is_new = own.update_or_create(
        session_id=session_id,
        producer=step.producer,
        defaults={"epoch": step.epoch, "sequence": step.sequence, "used_at": Now()},
    )
    if is_new:
        latest = own.order_by("-used_at", "-pk").values_list("pk", flat=True)
        own.exclude(pk__in=list(latest[:_MOST_PRODUCERS])).delete()
