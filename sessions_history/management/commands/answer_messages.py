import asyncio
import logging
from typing import Any

from django.core.management.base import CommandError, CommandParser

from connections.config.kinds import Number, Whole
from connections.config.loader import get_config
from connections.management.operator_command import OperatorCommand
from connections.process_exit import exit_in_time, stop_on_signals
from sessions_history.answer_worker import POLL_SECONDS, answer_messages
from sessions_history.responders import AnyResponder, make_responder

logger = logging.getLogger(__name__)


class Command(OperatorCommand):
    help = (
        "Run SESSIONS_RESPONDER in this process, for the messages that all nodes got."
        ' Needs sessions.answered_by = "workers"; run as many processes as you like.'
    )

    def add_arguments(self, parser: CommandParser) -> None:
        config = get_config()
        self.add_number(
            parser,
            "--most",
            Whole(1, 1_000_000),
            default=config.sessions.max_open_streams_per_node,
            metavar="ANSWERS",
            help="answers under way at once (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--poll",
            Number(0.01, 3600),
            default=POLL_SECONDS,
            metavar="SECONDS",
            help="seconds between two looks for messages (default: %(default)s)",
        )
        self.add_number(
            parser,
            "--grace",
            Number(0, 86_400),
            default=config.drain.grace_seconds,
            metavar="SECONDS",
            help="time that answers have after SIGTERM to end (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        config = get_config()
        if config.sessions.answered_by != "workers":
            raise CommandError(
                f"sessions.answered_by is {config.sessions.answered_by!r}: the nodes"
                " answer. Set WEBSOCKET['sessions']['answered_by'] to 'workers'."
            )
        responder = make_responder()
        if responder is None:
            raise CommandError("the setting SESSIONS_RESPONDER names no responder")
        asyncio.run(self._run(responder, options))

    async def _run(self, responder: AnyResponder, options: dict[str, Any]) -> None:
        stopping, hurrying = asyncio.Event(), asyncio.Event()
        stop_on_signals(stopping, hurrying)
        logger.info(
            "Answering messages with %s, at most %s at once",
            type(responder).__name__,
            options["most"],
            extra={"event": "answering"},
        )
        await answer_messages(
            get_config(),
            responder,
            stopping=stopping,
            hurrying=hurrying,
            most=options["most"],
            grace_seconds=options["grace"],
            poll_seconds=options["poll"],
        )
        # A responder may have swallowed its cancellation, or left a thread behind.
        exit_in_time(0)
