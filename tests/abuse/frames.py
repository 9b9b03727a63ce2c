"""Attacks with invalid frames and with floods of frames."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable

from connections.testing import (
    BINARY,
    PING,
    TEXT,
    Flooder,
    SlowClient,
    build_frame,
)
from connections.testing.waiting import scale
from tests.abuse.attack import (
    Target,
    during,
    gather_answers,
    read_close_reason,
    send_until_cut,
)
from tests.abuse.cases import Case

_POUR_SECONDS = 4


async def send_each(target: Target, cases: Iterable[Case]) -> Counter[str]:
    """Send each case on a connection of its own."""

    async def try_one(index: int, case: Case) -> str:
        client = await target.open(index=index)
        await client.send(case[1])
        close_reason = await read_close_reason(client, target.patience_seconds)
        if close_reason != "open" and await client.read_end() != b"":
            close_reason = f"{close_reason}, then reset"
        return f"{case[0]}: {close_reason}"

    return await gather_answers(
        try_one(index, case) for index, case in enumerate(cases)
    )


async def hold_unfinished(target: Target, count: int, size: int) -> Counter[str]:
    """Begin messages from many addresses, finish none, and answer every ping."""
    begun = build_frame(BINARY, bytes(size), is_final=False)

    async def hold(index: int) -> str:
        client = await target.open(index=index)
        await send_until_cut(client, [begun])
        return await read_close_reason(client, target.patience_seconds)

    return await gather_answers(map(hold, range(count)))


async def flood_frames(
    target: Target, begin: bytes, piece: bytes, *, reads: bool = True
) -> Counter[str]:
    """Send one frame again and again, as fast as the server takes it."""
    seconds = min(scale(_POUR_SECONDS), target.patience_seconds)
    client = await target.open(kind=Flooder if reads else SlowClient)
    if isinstance(client, Flooder):
        await client.send(begin)
        pouring = client.flood(piece * 1000, seconds=_POUR_SECONDS)
        return Counter([await during(pouring, read_close_reason(client, seconds))])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await send_until_cut(client, itertools.repeat(begin + piece * 1000))
    return Counter([await read_close_reason(client, scale(1))])


def pour_fragments(payload: bytes) -> tuple[bytes, bytes]:
    """Return the first frame of a text, and a fragment."""
    begin = build_frame(TEXT, b"x", is_final=False)
    return begin, build_frame(0, payload, is_final=False)


def pour_pings(payload: bytes) -> tuple[bytes, bytes]:
    """Return no first frame, and a ping."""
    return b"", build_frame(PING, payload)


async def inflate(target: Target) -> Counter[str]:
    """Offer compression, and send a compressed message that inflates to 1 GiB."""
    client = await target.open("/echo/", "Sec-WebSocket-Extensions: permessage-deflate")
    if "sec-websocket-extensions" in client.headers:
        return Counter(["negotiated"])
    # 1 GiB of zeros is about 1 MiB of this byte (RFC 1951).
    await send_until_cut(client, [build_frame(BINARY, bytes(1000), reserved=4)])
    return Counter([await read_close_reason(client, target.patience_seconds)])
