"""Try a server by hand: python -m connections.client URL --token TOKEN."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from connections.client.events import (
    Attached,
    EntryArrived,
    EntryGrew,
    EntrySettled,
    Event,
    Noticed,
    StateChanged,
    Warned,
)
from connections.client.opening import open_connection
from connections.client.outbox import RequestFailed
from connections.client.session import SessionClient

_LAST_ANSWER_SECONDS = 30
"""For the answer to the last line, after the end of what is typed."""


async def _talk(url: str, token: str | None) -> int:
    try:
        async with open_connection(url, token) as connection:
            _say(f"connected to {url}; Ctrl-D ends")
            printing = asyncio.create_task(_print_messages(connection))
            async for line in _read_lines():
                if printing.done():
                    break
                try:
                    await connection.send(line)
                except ConnectionClosed:
                    break
                await asyncio.sleep(0.1)
            await connection.close()
            await printing
    except (OSError, InvalidHandshake) as exc:
        _say(f"not connected: {exc}")
        return 1
    return 0


async def _print_messages(connection: ClientConnection) -> None:
    async for message in connection:
        print(message)
    _say(f"closed: {connection.close_code} {connection.close_reason}")


async def _converse(url: str, token: str | None, session: str) -> int:
    async with SessionClient(url, token=token, session=session) as client:
        answered = asyncio.Event()
        printing = asyncio.create_task(_print_events(client, answered))
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
    await printing
    return 0


async def _print_events(client: SessionClient, answered: asyncio.Event) -> None:
    async for event in client.events():
        _print_event(event)
        last = client.entries[-1:]
        if last and last[0].sender == "server" and not last[0].is_streaming:
            answered.set()


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
        case EntrySettled(entry=entry):
            print("" if entry.state == "done" else f" [{entry.state}]")
        case Warned(code=code, message=message):
            _say(f"{code}: {message}")
        case Noticed(text=text):
            _say(f"notice: {text}")


async def _read_lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    """Connect, send what is typed, print what comes."""
    parser = argparse.ArgumentParser(prog="python -m connections.client")
    parser.add_argument(
        "url", help="ws://127.0.0.1:8000/ws/echo/, or .../ws/sessions/ with --session"
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
    return asyncio.run(talk)


if __name__ == "__main__":
    sys.exit(main())
