"""
Check Host and Origin headers of a handshake (RFC 6455, section 10.2).

Malformed and ambiguous headers are refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MOST_HOST_CHARACTERS = 253
"""The longest name of DNS (RFC 1035, section 2.3.4)."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a page; `*.example.com` means its subdomains."""

    scheme: str
    host: str
    port: int

    def matches(self, other: "Origin") -> bool:
        """Return True if this pattern includes another origin."""
        if (self.scheme, self.port) != (other.scheme, other.port):
            return False
        if self.host.startswith("*."):
            return other.host.endswith(self.host[1:])
        return self.host == other.host


def parse_pattern(text: str) -> Origin:
    """
    Return an entry of allowed_origins: scheme, host and port.

    Raises:
        ValueError: the text is not scheme://host or scheme://host:port; the
            host may begin with `*.`.
    """
    scheme, separator, rest = text.partition("://")
    is_wildcard = rest.startswith("*.")
    origin = parse_origin(f"{scheme}{separator}{rest[2:] if is_wildcard else rest}")
    if origin is None:
        raise ValueError("not scheme://host or scheme://host:port")
    if is_wildcard:
        return Origin(origin.scheme, f"*.{origin.host}", origin.port)
    return origin


def parse_origin(text: str) -> Origin | None:
    """Return the origin in an Origin header, or None if it is null or malformed."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or parts.path or parts.query:
        return None
    if parts.fragment or "@" in parts.netloc or not text.isprintable():
        return None
    host = parse_host(parts.netloc)
    if host is None or text != f"{parts.scheme}://{parts.netloc}":
        return None
    return Origin(parts.scheme, host[0], port or _DEFAULT_PORTS[parts.scheme])


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return host and port of a Host header, or None if it is malformed."""
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    port = int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        return None
    if len(found[1]) > _MOST_HOST_CHARACTERS:
        return None
    return found[1], port


def is_origin_allowed(
    origin_headers: Sequence[str],
    *,
    host: str,
    is_secure: bool,
    allowed: Iterable[str],
    has_own_credential: bool,
) -> bool:
    """
    Return True if a page may open a WebSocket.

    Args:
        origin_headers: every Origin header of the request.
        host: the Host header (X-Forwarded-Host from a trusted proxy).
        is_secure: whether the client uses TLS.
        allowed: the configuration's allowed_origins.
        has_own_credential: whether the request has a bearer token or ticket.
            Only such a request may lack an Origin header (it comes from a
            program, not from a page).
    """
    if not origin_headers:
        return has_own_credential
    if len(origin_headers) > 1:
        return False
    origin = parse_origin(origin_headers[0])
    if origin is None:
        return False
    if any(parse_pattern(text).matches(origin) for text in allowed):
        return True
    own = parse_host(host)
    if own is None or (is_secure and origin.scheme != "https"):
        return False
    own_port = own[1] or _DEFAULT_PORTS[origin.scheme]
    return (origin.host, origin.port) == (own[0], own_port)
