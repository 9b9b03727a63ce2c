"""The section `privacy:`, which decides how much of a person is written down."""

from dataclasses import dataclass

from connections.config.fields import option
from connections.config.kinds import Choice, Flag

FULL, NETWORK, FAMILY, NONE = "full", "network", "family", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    addresses: str = option(
        Choice((FULL, NETWORK, NONE)),
        FULL,
        "what is recorded and logged of a client's address: all of it, its network"
        " (IPv4 /24, IPv6 /48), or nothing; limits and bans see all of it in memory",
    )
    user_agents: str = option(
        Choice((FULL, FAMILY, NONE)),
        FULL,
        "what is recorded of a client's program: all that it sends, its name without"
        " versions, or nothing",
    )
    forget_deleted_users: bool = option(
        Flag(),
        False,
        "a sweeper forgets users that are deleted, as manage.py forget does",
    )
