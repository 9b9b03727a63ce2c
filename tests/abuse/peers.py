"""Attacks by connecting, leaving and vanishing."""

import asyncio
import os
import signal
import sys
from collections import Counter

from connections.testing import CLOSE, TEXT, RawClient, build_frame
from connections.testing.waiting import scale
from tests.abuse.attack import (
    OPEN,
    Target,
    gather_answers,
    read_close_reason,
    read_status,
)

_NORMAL = (1000).to_bytes(2, "big")
_VANISHING = """
import sys
from websockets.sync.client import connect
url, origin, address, count = sys.argv[1:]
sockets = [
    connect(url, origin=origin, source_address=(address, 0), open_timeout=None)
    for _ in range(int(count))
]
print("open", flush=True)
sys.stdin.read()
"""


async def come_and_go(target: Target) -> Counter[str]:
    """Connect, send a message and close, 500 times."""
    answers: Counter[str] = Counter()
    for number in range(500):
        client = await target.open(index=number % 200)
        await client.send(build_frame(TEXT, b"x"))
        await client.read_frame()
        await client.send(build_frame(CLOSE, _NORMAL))
        answers[await read_close_reason(client, target.patience_seconds)] += 1
        client.close()
    return answers


async def leave_without_a_word(target: Target) -> Counter[str]:
    """Connect and reset the connection, 200 times, half of them too early."""
    for number in range(200):
        client = await target.connect(number)
        await client.send(target.build_request())
        if number % 2:
            await read_status(client, target.patience_seconds)
        client.reset()
    return Counter({"left": 200})


async def close_half(target: Target) -> Counter[str]:
    """Send a message and FIN, and wait for the answer."""

    async def try_one(index: int) -> str:
        client = await target.open(index=index)
        await client.send(build_frame(TEXT, b"x"))
        client.finish_sending()
        return await read_close_reason(client, target.patience_seconds)

    return await gather_answers(map(try_one, range(20)))


async def storm(target: Target) -> Counter[str]:
    """Reconnect 300 clients at once, three times, after a reset."""

    async def come(index: int) -> str:
        client = await target.connect(index)
        await client.send(target.build_request())
        status = await read_status(client, target.patience_seconds)
        arrived.append(client)
        return status

    answers: Counter[str] = Counter()
    for _ in range(3):
        arrived: list[RawClient] = []
        answers += await gather_answers(map(come, range(300)))
        for client in arrived:
            client.reset()
    return answers


async def hoard(target: Target) -> Counter[str]:
    """Hold 300 connections of one address, each with another X-Forwarded-For."""

    close_reasons = []
    for number in range(300):
        header = f"X-Forwarded-For: 198.51.{number // 250}.{number % 250}"
        client = await target.open("/echo/", header)
        close_reason = read_close_reason(client, scale(2))
        close_reasons.append(asyncio.create_task(close_reason))
    return await gather_answers(close_reasons)


async def vanish(target: Target, *, count: int = 5) -> Counter[str]:
    """Stop a process with open connections: no FIN, no pong, for ever."""
    url = f"ws://127.0.0.1:{target.port}/echo/"
    origin = target.origin.partition(" ")[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _VANISHING, url, origin),
        *(target.find_address(), str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        deadline = asyncio.get_running_loop().time() + target.patience_seconds
        while asyncio.get_running_loop().time() < deadline:
            if not target.count_open():
                return Counter({"dropped": count})
            await asyncio.sleep(0.1)
        return Counter({OPEN: count})
    finally:
        process.kill()
        await process.wait()
