"""Make the URL of one session from the URL of all."""

from urllib.parse import quote, urlsplit

_POSITION = ("epoch", "offset", "chain", "open", "acked", "presence", "replaces")
"""Parameters that the client itself sets."""


class SessionsUrl:
    """
    The URL of all sessions, with or without its last slash.

    Its own query, such as a ticket, is kept.

    Raises:
        ValueError: it is not ws://host/path or wss://host/path.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # The query is not named in the error: it may hold a ticket.
        base = parts._replace(query="", fragment="").geturl()
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
            raise ValueError(
                f"a URL has to be ws://host/path or wss://host/path, not {base!r}"
            )
        self._base = base.rstrip("/")
        self._query = [
            pair
            for pair in parts.query.split("&")
            if pair and pair.partition("=")[0] not in _POSITION
        ]

    def make(self, session: str, *position: str) -> str:
        """Return the URL of a session, with the parts of a client's position."""
        query = "&".join(part for part in (*self._query, *position) if part)
        return f"{self._base}/{quote(session, safe='')}/?{query}"
