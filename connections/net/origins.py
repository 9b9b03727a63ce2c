"""
Check Host and Origin headers of a handshake (RFC 6455, section 10.2).

Malformed and ambiguous headers are refused.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MOST_HOST_CHARACTERS = 253
"""The longest name of DNS (RFC 1035, section 2.3.4)."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.ASCII)


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
"""RFC 3986, section 3.1; an Origin header has it in lower case (RFC 6454)."""

_NULL = "null"

_MOST_SHARED_CHARACTERS = 200
_MOST_SHARED = 512
"""Hosts and origins that are parsed once while others come again."""


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Scheme, host and port of a page; `*.example.com` means its subdomains.

    Pages of applications and browser extensions have schemes of their own, which
    have no default port: it is 0. The scheme of an opaque origin is "null".
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.scheme == _NULL:
            return _NULL
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if self.port else "")

    @property
    def is_web(self) -> bool:
        """Return True if the page came from a web server."""
        return self.scheme in _DEFAULT_PORTS

    @property
    def is_opaque(self) -> bool:
        """Return True for "null": any site can have it, with a sandboxed frame."""
        return self.scheme == _NULL

    def matches(self, other: "Origin") -> bool:
        """Return True if this pattern includes another origin."""
        if (self.scheme, self.port) != (other.scheme, other.port):
            return False
        if self.host.startswith("*"):
            return other.host.endswith(self.host[1:])
        return self.host == other.host


@lru_cache
def parse_pattern(text: str) -> Origin:
    """
    Return an entry of allowed_origins: scheme, host and port.

    The host may begin with `*.`, for its subdomains. For a scheme that is not of
    the web it may be `*`, because Firefox gives an extension another host in each
    installation.

    Raises:
        ValueError: the text is no such entry; the message says why.
    """
    scheme, separator, rest = text.strip().lower().partition("://")
    plain = f"{scheme}{separator}{rest.removeprefix('*.')}"
    if rest == "*" and _SCHEME.fullmatch(scheme) and scheme not in _DEFAULT_PORTS:
        return Origin(scheme, "*", 0)
    origin = parse_origin(plain)
    if origin is None:
        raise ValueError(_find_fault(scheme, separator, rest))
    if plain != f"{scheme}{separator}{rest}":
        return Origin(origin.scheme, f"*.{origin.host}", origin.port)
    return origin


def _find_fault(scheme: str, separator: str, rest: str) -> str:
    """Return what is wrong with an entry of allowed_origins."""
    if not separator:
        return f"it has no scheme: write https://{scheme}" if scheme else "it is empty"
    if not _SCHEME.fullmatch(scheme):
        return f"{scheme!r} is no scheme"
    host, slash, _ = rest.partition("/")
    if slash or "?" in rest or "#" in rest:
        return f"it has a path: write {scheme}://{host.partition('?')[0]}"
    if "@" in host:
        return "it has a user"
    if not host.isascii():
        return "its host is not ASCII: write it as browsers do, in Punycode (xn--...)"
    if "*" in host:
        return "* stands for subdomains at the beginning of a host: https://*.host"
    if host.count(":") > 1 and not host.startswith("["):
        return f"an IPv6 address stands in brackets: {scheme}://[{host}]"
    return "it is not scheme://host or scheme://host:port"


def parse_origin(text: str) -> Origin | None:
    """Return the origin in an Origin header, or None if it is malformed."""
    is_usual = len(text) <= _MOST_SHARED_CHARACTERS
    return _share_origin(text) if is_usual else _parse_origin(text)


def _parse_origin(text: str) -> Origin | None:
    if text == _NULL:
        return Origin(_NULL, "", 0)
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme) or scheme == _NULL:
        return None
    if not rest:
        # A page from the disk has no host.
        return Origin(scheme, "", 0) if scheme == "file" else None
    host = parse_host(rest)
    if host is None:
        return None
    return Origin(scheme, host[0], host[1] or _DEFAULT_PORTS.get(scheme, 0))


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return host and port of a Host header, or None if it is malformed."""
    is_usual = len(text) <= _MOST_SHARED_CHARACTERS
    return _share_host(text) if is_usual else _parse_host(text)


def _parse_host(text: str) -> tuple[str, int | None] | None:
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    host = found[1]
    port = int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        return None
    if len(host) > _MOST_HOST_CHARACTERS:
        return None
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return host, port


# A handshake has the same host and origin parsed several times, as all of its site do.
_share_origin = lru_cache(_MOST_SHARED)(_parse_origin)
_share_host = lru_cache(_MOST_SHARED)(_parse_host)


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
            program, not from a page), or come from an opaque origin.
    """
    if not origin_headers:
        return has_own_credential
    if len(origin_headers) > 1:
        return False
    origin = parse_origin(origin_headers[0])
    if origin is None or (origin.is_opaque and not has_own_credential):
        return False
    if any(parse_pattern(text).matches(origin) for text in allowed):
        return True
    own = parse_host(host)
    if own is None or not origin.is_web or (is_secure and origin.scheme != "https"):
        return False
    own_port = own[1] or _DEFAULT_PORTS[origin.scheme]
    return (origin.host, origin.port) == (own[0], own_port)
