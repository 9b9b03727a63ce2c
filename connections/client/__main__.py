"""Talk to a server by hand: python -m connections.client URL --token TOKEN."""

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.uri import parse_uri

from connections.client.connect import open_connection
from connections.client.events import (
    Attached,
    EntryArrived,
    EntryCompleted,
    EntryGrew,
    ErrorReceived,
    Event,
    NoticeReceived,
    State,
    StateChanged,
)
from connections.client.outbox import RequestFailed
from connections.client.session import SessionClient
from connections.close_codes import Reconnect

_LAST_ANSWER_SECONDS = 30
"""How long to wait for the last answer after the end of the input."""

_EXIT_CODES = """\
exit code: 0 where you ended it (Ctrl-D), or the server closed with 1000 or 1001;
1 where it could not connect, or the connection ended otherwise: `closed: 4005
evicted` says how. With --session it returns by itself as the code advises, and
ends with 1 at one that says not to (`manage.py close_codes` lists them). 130
where Ctrl-C ended it."""
_PEACEFUL = (1000, 1001)
_INTERRUPTED = 130
"""The exit code that shells use for SIGINT."""


async def _talk(url: str, token: str | None) -> int:
    try:
        async with open_connection(url, token) as connection:
            _say(f"connected to {url}; Ctrl-D ends")
            return await _do_until_ended(
                _send_lines(connection), _print_messages(connection)
            )
    except (OSError, InvalidHandshake) as exc:
        _say(f"not connected: {exc}")
        return 1


async def _do_until_ended(
    typing: Coroutine[Any, Any, None], printing: Coroutine[Any, Any, int]
) -> int:
    """Return the exit code of `printing`, even while a line is being typed."""
    async with asyncio.TaskGroup() as tasks:
        typed = tasks.create_task(typing)
        code = await printing
        typed.cancel()
    return code


async def _send_lines(connection: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for line in _read_lines():
            await connection.send(line)
            await asyncio.sleep(0.1)
        await connection.close()


async def _print_messages(connection: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            print(message)
    code, reason = connection.close_code, connection.close_reason
    _say(f"closed: {code} {reason}")
    return int(code not in _PEACEFUL)


async def _converse(url: str, token: str | None, session: str) -> int:
    async with SessionClient(url, token=token, session=session) as client:
        answered = asyncio.Event()
        answered.set()  # No handshake was answered yet.
        return await _do_until_ended(
            _request_lines(client, answered), _print_events(client, answered)
        )


async def _request_lines(client: SessionClient, answered: asyncio.Event) -> None:
    async for line in _read_lines():
        answered.clear()
        try:
            await client.request({"text": line})
        except RequestFailed as exc:
            answered.set()
            _say(f"not recorded: {exc}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_ANSWER_SECONDS):
            await answered.wait()
    await client.close()


async def _print_events(client: SessionClient, answered: asyncio.Event) -> int:
    """Print until the client is closed or its end forbids to reconnect."""
    async for event in client.events():
        _print_event(event)
        if isinstance(event, StateChanged) and _is_over(event):
            return int(event.ended is None or event.ended.code not in _PEACEFUL)
        last = client.entries[-1:]
        if last and last[0].sender == "server" and not last[0].is_streaming:
            answered.set()
    return 0


def _is_over(event: StateChanged) -> bool:
    """Return True if no input can bring the connection back."""
    is_final = event.ended is not None and event.ended.reconnect is Reconnect.NEVER
    return event.state is State.CLOSED and is_final


def _print_event(event: Event) -> None:
    match event:
        case StateChanged(state=state, ended=ended, delay_seconds=delay):
            why = f" ({ended.code} {ended.reason})" if ended else ""
            _say(f"{state}{why}{f', back in {delay:.1f} s' if delay else ''}")
        case Attached(session=session, outcome=outcome):
            _say(f"session {session}: {outcome}")
        case EntryArrived(entry=entry):
            end = "" if entry.is_streaming else "\n"
            content = entry.text if entry.is_streaming else entry.text or entry.data
            print(f"{entry.sender}: {content}", end=end, flush=True)
        case EntryGrew(text=text):
            print(text, end="", flush=True)
        case EntryCompleted(entry=entry):
            print("" if entry.state == "done" else f" [{entry.state}]")
        case ErrorReceived(code=code, message=message):
            _say(f"{code}: {message}")
        case NoticeReceived(text=text):
            _say(f"notice: {text}")


async def _read_lines() -> AsyncIterator[str]:
    """
    Yield the lines that are typed.

    A daemon thread reads them, so that the program ends without another Enter. It
    reads the file descriptor, because a thread that holds the lock of sys.stdin
    crashes the interpreter at its end.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def put(line: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # The event loop has ended.
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def read() -> None:
        rest = b""
        while chunk := os.read(sys.stdin.fileno(), 65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                put(line.decode(errors="replace"))
        if rest:
            put(rest.decode(errors="replace"))
        put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _read_url(text: str) -> str:
    try:
        parse_uri(text)
    except InvalidURI as exc:
        wanted = "ws://HOST:PORT/PATH or wss://HOST/PATH"
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from exc
    return text


def main() -> int:
    """Connect, send the typed lines, print the received messages."""
    parser = argparse.ArgumentParser(
        prog="python -m connections.client",
        description="Connect, send each line that is typed, print what comes.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "url",
        type=_read_url,
        help="ws://127.0.0.1:8000/ws/echo/, or .../ws/sessions/ with --session",
    )
    parser.add_argument("--token", help="an access token")
    parser.add_argument(
        "--session", metavar="ID", help="speak in a session; `new` starts one"
    )
    arguments = parser.parse_args()
    if arguments.session:
        talk = _converse(arguments.url, arguments.token, arguments.session)
    else:
        talk = _talk(arguments.url, arguments.token)
    try:
        return asyncio.run(talk)
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
