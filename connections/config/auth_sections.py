"""Configuration sections for credentials: kinds, lifetimes and failed attempts."""

from dataclasses import dataclass

from connections.config.fields import Choices, Number, Text, Whole, option


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtConfig:
    issuer: str = option(Text("the claim iss, exactly"), "", "who issues JWTs")
    audience: str = option(
        Text("one of the claim aud, exactly"), "", "whom they must be meant for"
    )
    jwks_url: str = option(
        Text("an https:// URL"), "", "where the issuer's keys are (JWKS)"
    )
    jwks_file: str = option(
        Text("the path of a file"), "", "or a file with the keys (JWKS)"
    )
    algorithms: tuple[str, ...] = option(
        Choices(("RS256", "ES256", "EdDSA", "HS256")),
        ["RS256", "ES256", "EdDSA", "HS256"],
        "what keys may be for; each key verifies its own algorithm alone",
    )
    leeway_seconds: float = option(
        Number(0, 300), 10, "how far the issuer's clock may be off"
    )
    client_claim: str = option(
        Text("the name of a claim"), "sub", "names the client, as jwt:<claim>"
    )
    user_claim: str = option(
        Text("the name of a claim, or none"),
        "",
        "names the Django user, who is the client then",
    )
    refresh_seconds: float = option(
        Number(1, 86_400), 300, "after which keys are read again"
    )
    refetch_seconds: float = option(
        Number(0.1, 3600), 10, "least time between readings for unknown keys"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketsConfig:
    lifetime_seconds: int = option(
        Whole(1, 300), 30, "from POST /api/tickets/ to the handshake"
    )
    max_per_client: int = option(
        Whole(1, 1_000_000), 20, "tickets a client may be given within that time (429)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryConfig:
    warning_seconds: float = option(
        Number(0, 86_400), 60, "before its credential ends a client is told so"
    )
    grace_seconds: float = option(
        Number(0, 86_400), 10, "after the credential's end the connection is closed"
    )
