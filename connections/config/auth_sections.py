"""Configuration sections for credentials: kinds, lifetimes and failed attempts."""

from dataclasses import dataclass

from connections.config.fields import option
from connections.config.kinds import Choices, Number, Text, Whole

DEFAULT_BACKENDS = [
    "connections.credentials.AccessTokens",
    "connections.credentials.JsonWebTokens",
    "connections.credentials.Tickets",
    "connections.credentials.Sessions",
]
"""The backends without configuration, and those of the dashboard's WebSocket."""

COOKIELESS_BACKENDS = frozenset(DEFAULT_BACKENDS) - {"connections.credentials.Sessions"}
"""The backends that are known to read no cookie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtConfig:
    issuer: str = option(
        Text("the claim iss, exactly"), "", "issuer that a JWT must name"
    )
    audience: str = option(
        Text("one of the claim aud, exactly"), "", "audience that a JWT must name"
    )
    jwks_url: str = option(
        Text("an https:// URL"), "", "URL of the issuer's public keys (JWKS)"
    )
    jwks_file: str = option(
        Text("the path of a file"),
        "",
        "file with the issuer's keys (JWKS), instead of a URL",
    )
    algorithms: tuple[str, ...] = option(
        Choices(("RS256", "ES256", "EdDSA", "HS256")),
        ["RS256", "ES256", "EdDSA", "HS256"],
        "accepted signature algorithms; a key verifies only its own algorithm",
    )
    leeway_seconds: float = option(
        Number(0, 300), 10, "seconds that the issuer's clock may differ"
    )
    client_claim: str = option(
        Text("the name of a claim"),
        "sub",
        "claim that becomes the client_id, as jwt:<claim>",
    )
    user_claim: str = option(
        Text("the name of a claim, or none"),
        "",
        "claim with the Django user's name, who is then the client; empty: no user",
    )
    refresh_seconds: float = option(
        Number(1, 86_400), 300, "seconds between two readings of the keys"
    )
    refetch_seconds: float = option(
        Number(0.1, 3600), 10, "least seconds between readings because of unknown keys"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketsConfig:
    lifetime_seconds: int = option(
        Whole(1, 300), 30, "seconds that a ticket of POST /api/tickets/ is valid"
    )
    max_per_client: int = option(
        Whole(1, 1_000_000),
        20,
        "tickets per client within lifetime_seconds; more are answered with 429",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryConfig:
    warning_seconds: float = option(
        Number(0, 86_400),
        60,
        "seconds before a credential expires at which its client is warned",
    )
    grace_seconds: float = option(
        Number(0, 86_400),
        10,
        "seconds from a credential's expiry to the close of its connection",
    )
