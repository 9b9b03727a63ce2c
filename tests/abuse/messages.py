"""Attacks with messages that are each valid."""

import asyncio
import itertools
from collections import Counter

from connections.testing import BINARY, TEXT, SlowClient, build_frame
from connections.testing.waiting import scale
from tests.abuse.attack import (
    OPEN,
    Target,
    during,
    gather_answers,
    read_close_reason,
    read_status,
    send_until_cut,
)

_POUR_SECONDS = 3


async def flood_a_slow_consumer(target: Target, size: int) -> Counter[str]:
    """Offer messages to a consumer that takes two a second."""
    client = await target.open("/slow/")
    piece = build_frame(BINARY, bytes(size)) * (1_000_000 // size)
    pouring = send_until_cut(
        client, itertools.repeat(piece, target.offered_bytes // 1_000_000)
    )
    close_reason = read_close_reason(
        client, min(scale(_POUR_SECONDS), target.patience_seconds)
    )
    return Counter([await during(pouring, close_reason)])


async def sate(target: Target) -> Counter[str]:
    """Send 1 MB, read it back and stay silent, from 100 addresses in turn."""
    frame = build_frame(BINARY, bytes(1_000_000))
    clients = []
    for index in range(100):
        client = await target.open(index=index)
        await client.send(frame)
        await client.read_frame(target.patience_seconds)
        clients.append(client)
    return Counter("reset" if one.is_dropped() else OPEN for one in clients)


async def break_json(target: Target) -> Counter[str]:
    """Send 1000 messages of one byte that a handler raises at."""
    client = await target.open("/json/")
    pouring = send_until_cut(client, [build_frame(TEXT, b"x") * 1000])
    close_reason = read_close_reason(client, target.patience_seconds)
    return Counter([await during(pouring, close_reason)])


async def read_slowly(
    target: Target, count: int, size: int, bytes_per_second: int = 0
) -> Counter[str]:
    """Request much output from several addresses, and read little or none."""

    async def ask(index: int) -> str:
        client = await target.open(
            "/flood/", index=index, kind=SlowClient, bytes_per_second=bytes_per_second
        )
        wanted = f"{target.offered_bytes // size} {size}".encode()
        await client.send(build_frame(TEXT, wanted))
        deadline = asyncio.get_running_loop().time() + target.patience_seconds
        while asyncio.get_running_loop().time() < deadline:
            if client.is_dropped():
                return "reset"
            await asyncio.sleep(0.1)
        return OPEN

    answers = await gather_answers(map(ask, range(count)))
    # The server's reaction to its consumers is part of the measurement.
    await asyncio.sleep(1)
    return answers


async def send_large_bodies(target: Target) -> Counter[str]:
    """POST chunks without end, over HTTP."""
    client = await target.connect()
    head = (
        f"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    await client.send(head.encode())
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    pouring = send_until_cut(
        client, itertools.repeat(chunk, target.offered_bytes // 65536)
    )
    status = read_status(client, min(scale(_POUR_SECONDS), target.patience_seconds))
    return Counter([await during(pouring, status)])
