"""Read the target and the Host headers of a request (RFC 9112, section 3.2)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from connections.net.origins import parse_host

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)


class BadTarget(Exception):
    """A request that names no resource of the server; `status` is the answer."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The resource that a request names."""

    path: bytes
    """The path, and the query string if there is one."""
    host: bytes | None
    """The host of an absolute-form target, which replaces the Host header."""


def read_target(
    method: bytes, target: bytes, version: bytes, hosts: Sequence[bytes]
) -> Target:
    """
    Return the resource of a request with these Host headers.

    The scheme of an absolute-form target is ignored: the transport, or a trusted
    proxy, says whether the connection is secure. The value of Host is checked with
    the Origin header, and by Django.

    Raises:
        BadTarget: the target has another form, or the Host header is missing or
            repeated.
    """
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise BadTarget(400, "There must be one Host header")
    if method == b"CONNECT":
        raise BadTarget(501, "The server is no proxy: CONNECT is not supported")
    if target.startswith(b"/"):
        return Target(path=target, host=None)
    if target == b"*" and method == b"OPTIONS":
        raise BadTarget(501, "OPTIONS is supported for a path, not for *")
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadTarget(400, "The request target is no path and no http URI")
    host, path = found[1], found[2]
    if parse_host(host.decode("latin-1")) is None:
        raise BadTarget(400, "The host of the request target is not valid")
    return Target(path=path if path.startswith(b"/") else b"/" + path, host=host)
