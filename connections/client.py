"""
A small client for services and for trying things by hand.

    python -m connections.client ws://127.0.0.1:8000/ws/echo/ --token TOKEN
"""

import argparse
import asyncio
import sys

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


def open_connection(url: str, token: str | None = None) -> connect:
    """
    Return websockets' connect(), with the token as a bearer header.

    Await it for a connection, or use it with `async with`.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(url, additional_headers=headers)


async def _talk(url: str, token: str | None) -> int:
    try:
        async with open_connection(url, token) as connection:
            print(f"connected to {url}; Ctrl-D ends", file=sys.stderr)
            printing = asyncio.create_task(_print_messages(connection))
            while not printing.done():
                line = await asyncio.to_thread(sys.stdin.readline)
                if not line:
                    break
                try:
                    await connection.send(line.rstrip("\n"))
                except ConnectionClosed:
                    break
                await asyncio.sleep(0.1)
            await connection.close()
            await printing
    except (OSError, InvalidHandshake) as exc:
        print(f"not connected: {exc}", file=sys.stderr)
        return 1
    return 0


async def _print_messages(connection: ClientConnection) -> None:
    async for message in connection:
        print(message)
    code, reason = connection.close_code, connection.close_reason
    print(f"closed: {code} {reason}", file=sys.stderr)


def main() -> int:
    """Connect, send what is typed, print what comes."""
    parser = argparse.ArgumentParser(prog="python -m connections.client")
    parser.add_argument("url", help="such as ws://127.0.0.1:8000/ws/echo/")
    parser.add_argument("--token", help="an access token")
    arguments = parser.parse_args()
    return asyncio.run(_talk(arguments.url, arguments.token))


if __name__ == "__main__":
    sys.exit(main())
