"""Answer the messages of sessions in a process that holds no connections."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace

from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.exceptions import DatabaseUnavailable
from connections.node.recorder import Recorder
from connections.pool import require_usable_pool
from connections.pool.choice import get_redis_url
from connections.storage.database import Database
from sessions_history.responders import AnyResponder
from sessions_history.work import Takes
from sessions_history.writer_log import choose_renewal_seconds, make_log, make_owner

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
_RETRY_SECONDS = 1
STOP_SECONDS = 2
"""How long the ends of interrupted answers may take, as on a node that stops."""


async def answer_messages(
    config: WebSocketConfig,
    responder: AnyResponder,
    *,
    stopping: asyncio.Event,
    hurrying: asyncio.Event,
    most: int,
    grace_seconds: float,
    poll_seconds: float = POLL_SECONDS,
    stop_seconds: float = STOP_SECONDS,
    database: Database | None = None,
) -> None:
    """
    Answer the messages that wait, at most so many at once, until it shall stop.

    Then it takes no more, and its answers have the grace to end; those that have not
    ended then, or when it shall hurry, are interrupted.

    Raises:
        ConfigError: the configuration has problems.
    """
    config.require_valid()
    require_usable_pool(config, get_redis_url())
    sessions = replace(config.sessions, max_open_streams_per_node=most)
    config = replace(config, sessions=sessions)
    database = database or Database()
    owner = make_owner()
    errors = Recorder(
        node_id=owner,
        config=config.recorder,
        database=database,
        clock=time.monotonic,
    )
    log, bus = make_log(
        database,
        config,
        owner,
        takes=Takes.NEXT,
        responder=responder,
        record_error=errors.record_error,
    )
    tasks = BackgroundTasks()
    renewal_seconds = choose_renewal_seconds(config)
    renews_at = 0.0

    async def work() -> bool:
        """Renew what is here before more is taken."""
        nonlocal renews_at
        if time.monotonic() >= renews_at:
            await log.check_work()
            renews_at = time.monotonic() + renewal_seconds
        if not await log.take_next():
            await asyncio.sleep(poll_seconds)
        return False

    async def flush() -> None:
        await asyncio.sleep(renewal_seconds)
        await errors.flush()

    tasks.repeat(work, "The answers to messages", _RETRY_SECONDS)
    tasks.repeat(flush, "The records of errors", _RETRY_SECONDS)
    await stopping.wait()
    logger.info("Ending: the answers have %s s", grace_seconds)
    log.take_no_more()
    draining = tasks.start(log.drain(), "The drain")
    draining.add_done_callback(lambda done: hurrying.set())
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            await hurrying.wait()
    if not draining.done():
        logger.warning(
            "Answers that have not ended are interrupted",
            extra={"event": "answers_interrupted"},
        )
    await tasks.stop()
    try:
        async with asyncio.timeout(stop_seconds):
            await log.stop()
            await errors.flush()
        has_written = True
    except (DatabaseUnavailable, TimeoutError):
        has_written = False
        logger.error(
            "The ends of answers could not be written; their leases end by themselves",
            extra={"event": "flush_failed"},
        )
    if bus is not None:
        await bus.close()
    if has_written:
        await database.close()
    else:
        database.abandon()
