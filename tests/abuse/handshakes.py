"""Attacks on the handshake: request heads, credentials, addresses."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from connections.testing import RawClient
from connections.testing.waiting import scale
from tests.abuse.attack import (
    OPEN,
    Target,
    during,
    gather_answers,
    read_answer,
    read_close_reason,
    read_status,
    send_until_cut,
)
from tests.abuse.heads import Head

_CROWD = 300
_REFUSAL_SECONDS = 1
"""How long an application may take to refuse a connection that it accepted."""


async def say_nothing(target: Target) -> Counter[str]:
    """Open 300 TCP connections from one address and send nothing."""
    return await _wait_for_heads(target, lambda request: iter(()))


async def trickle_heads(target: Target) -> Counter[str]:
    """Slowloris: 300 heads from one address, a byte a second each."""
    return await _wait_for_heads(target, lambda request: iter(request[:-2]))


async def _wait_for_heads(
    target: Target, feed: Callable[[bytes], Iterator[int]]
) -> Counter[str]:
    """Run slow heads; another client of the same address must still connect."""
    request = target.build_request()

    async def trickle(client: RawClient) -> None:
        for byte in feed(request):
            await send_until_cut(client, [bytes([byte])])
            await asyncio.sleep(1)

    async def attack() -> str:
        client = await target.connect()
        close_reason = read_status(client, target.patience_seconds)
        return await during(trickle(client), close_reason)

    async def come_in() -> str:
        client = await target.connect()
        await client.send(request)
        return f"another client: {await read_status(client, target.patience_seconds)}"

    attackers = [asyncio.create_task(attack()) for _ in range(_CROWD)]
    await asyncio.sleep(0.5)
    answers = await gather_answers(come_in() for _ in range(5))
    return answers + await gather_answers(attackers)


async def wait_for_accept(target: Target) -> Counter[str]:
    """Ask 50 times for a WebSocket that a consumer never accepts."""

    async def ask(index: int) -> str:
        client = await target.connect(index)
        await client.send(target.build_request("/silent/"))
        return await read_status(client, target.patience_seconds)

    return await gather_answers(map(ask, range(50)))


async def try_heads(target: Target, heads: Iterable[Head]) -> Counter[str]:
    """Send each head, once, on a connection of its own."""

    async def try_one(index: int, head: Head) -> str:
        name, change, _ = head
        client = await target.connect(index)
        await send_until_cut(client, [change(target.build_request())])
        answer = await read_status(client, target.patience_seconds)
        if answer == "101":
            # The application refuses with a close frame.
            close_reason = await read_close_reason(client, scale(_REFUSAL_SECONDS))
            answer = "101" if close_reason == "open" else close_reason
        return f"{name}: {answer}"

    return await gather_answers(
        try_one(index, head) for index, head in enumerate(heads)
    )


async def guess_tokens(target: Target) -> Counter[str]:
    """Try 200 tokens and tickets from one address with varying X-Forwarded-For."""
    answers: Counter[str] = Counter()
    for number in range(200):
        guess = f"guess-{number}"
        path, header = (
            ("/echo/", f"Authorization: Bearer {guess}"),
            ("/echo/", f"Sec-WebSocket-Protocol: bearer.{guess}, chat"),
            (f"/echo/?ticket={guess}", "X-Nothing: here"),
        )[number % 3]
        forwarded = f"X-Forwarded-For: 203.0.113.{number}"
        client = await target.connect()
        await client.send(target.build_request(path, header, forwarded))
        answer = await read_answer(client, target.patience_seconds)
        answers[answer] += 1
        client.close()
        if answer == OPEN:  # Who is in need not guess on.
            break
    return answers
