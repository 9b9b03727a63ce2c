"""Answer who is present, in every process."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from connections.config.loader import get_config
from connections.exceptions import PresenceUnavailable
from connections.presence.base import ONLINE
from connections.presence.registry import Reader, serving
from connections.presence.rooms import Present, name_member, require_room
from connections.presence.stores import open_reader

Answer = TypeVar("Answer")
Question = Callable[[Reader], Awaitable[Answer]]

_ANSWER_SECONDS = 5
"""How long the event loop of a node may take to answer another thread."""


async def get_present(room: str) -> list[Present]:
    """
    Return the clients that are present in a room, one each whatever their tabs.

    Whether the asker may know is for the caller to check.

    Raises:
        PresenceUnavailable: it is not known.
        TypeError, ValueError: the room is no name of a room.
    """
    require_room(room)
    members: dict[str, str] = {}
    for found in await _ask(lambda reader: reader.get_present(room)):
        members |= found
    return [
        Present(member=member, data=json.loads(data))
        for member, data in sorted(members.items())
    ]


async def are_online(users: Iterable[Any]) -> dict[Any, bool]:
    """
    Return for each user, or client id, whether it is present, in one round trip.

    Raises:
        PresenceUnavailable: it is not known.
    """
    members = {user: name_member(user) for user in users}
    if not members:
        return {}
    asked = list(dict.fromkeys(members.values()))
    answers = await _ask(lambda reader: reader.find_present(ONLINE, asked))
    found = set().union(*answers)
    return {user: member in found for user, member in members.items()}


async def is_online(user: Any) -> bool:
    """
    Return True if a user, or a client by its id, is present.

    Raises:
        PresenceUnavailable: it is not known.
    """
    return (await are_online([user]))[user]


async def count(room: str = ONLINE) -> int:
    """
    Return how many clients are present in a room; by default in any.

    Raises:
        PresenceUnavailable: it is not known.
        TypeError, ValueError: the room is no name of a room.
    """
    require_room(room)
    return sum(await _ask(lambda reader: reader.count(room)))


async def _ask(question: Question[Answer]) -> list[Answer]:
    """Return the answers of this process's nodes, or of the store that they share."""
    readers = serving.find()
    if not readers:
        async with open_reader(get_config()) as reader:
            return [await question(reader)]
    if readers[0][0].is_shared:
        readers = readers[:1]
    return [await _ask_on(loop, reader, question) for reader, loop in readers]


async def _ask_on(
    loop: asyncio.AbstractEventLoop, reader: Reader, question: Question[Answer]
) -> Answer:
    """Ask on the event loop of a reader, which may be another thread's."""
    if loop is asyncio.get_running_loop():
        return await question(reader)

    async def answer() -> Answer:
        return await question(reader)

    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(answer(), loop)
            )
    except TimeoutError as exc:
        raise PresenceUnavailable("the node did not answer in time") from exc
