"""
Tell who is online and who is in a room, whatever process asks.

    from connections.presence import are_online, count, get_present, is_online

    await get_present("room-7")      # the clients in a room, with their public data
    await is_online(user)            # True or False; PresenceUnavailable if unknown

A consumer with `presence = True` makes its clients present, see howto/presence.md.
"""

from connections.presence.base import ONLINE
from connections.presence.reads import are_online, count, get_present, is_online
from connections.presence.rooms import Presence, Present

__all__ = [
    "ONLINE",
    "Presence",
    "Present",
    "are_online",
    "count",
    "get_present",
    "is_online",
]
