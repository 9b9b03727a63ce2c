"""Hold some notes about connections, which the agents of the demonstration search."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+")
_SHORTEST_WORD = 3
_STEM_CHARACTERS = 6
"""Words with the same beginning count as one: reconnects, reconnecting."""

_TITLE_WEIGHT = 2

_COMMON = frozenset(
    _WORD.findall(
        "about after again all also and any are because been before but can could"
        " did do does each for from get had has have her him his how into is it its"
        " just let me more most must not now off one only other our out over own"
        " please same say she should so some something such tell than that the their"
        " them then there these they this those to too under until use very was way"
        " we were what when where which while who why will with would write you your"
        " explain happen happens long web online internet search look find"
    )
)
"""Words that say nothing of what a question is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text with its source."""

    title: str
    url: str
    text: str


NOTES = (
    Note(
        title="RFC 6455: The WebSocket Protocol",
        url="https://www.rfc-editor.org/rfc/rfc6455",
        text="A WebSocket begins as an HTTP request and then carries messages both"
        " ways, until one side sends a close frame with a code and a reason.",
    ),
    Note(
        title="RFC 6455, section 5.5: control frames",
        url="https://www.rfc-editor.org/rfc/rfc6455#section-5.5",
        text="A ping asks whether the peer is alive, and a pong answers. A missing"
        " pong is the only sign of a network that is gone without a word.",
    ),
    Note(
        title="RFC 9293: Transmission Control Protocol",
        url="https://www.rfc-editor.org/rfc/rfc9293",
        text="A connection whose peer lost power or network looks open to the other"
        " side: TCP itself notices a lost peer only when data stays unacknowledged.",
    ),
    Note(
        title="MDN: The WebSocket API",
        url="https://developer.mozilla.org/en-US/docs/Web/API/WebSockets_API",
        text="A browser's page closes its WebSocket on a reload, and its API neither"
        " reconnects nor repeats a message that was lost: the application has to.",
    ),
    Note(
        title="Timeouts, retries, and backoff with jitter",
        url="https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/",
        text="Clients that lost a server return all at once and overload it, unless"
        " each waits a random time before it reconnects, and longer at each retry.",
    ),
    Note(
        title="RFC 9110, section 10.2.3: Retry-After",
        url="https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3",
        text="A server that is overloaded or restarts says when to come back, so that"
        " a deploy spreads its clients over time.",
    ),
    Note(
        title="The Idempotency-Key HTTP header field",
        url="https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/",
        text="A client gives each message an id and repeats it until it is"
        " acknowledged. The server keeps the id, and so records the message once.",
    ),
    Note(
        title="HTML: server-sent events, Last-Event-ID",
        url="https://html.spec.whatwg.org/multipage/server-sent-events.html",
        text="A client that returns names the last event that it has. The server"
        " resumes the stream after it, so that each word of an answer comes once.",
    ),
    Note(
        title="PostgreSQL: write-ahead logging",
        url="https://www.postgresql.org/docs/current/wal-intro.html",
        text="What a transaction has committed survives a crash, because the log is"
        " on disk first. An acknowledgement after the commit is a promise.",
    ),
    Note(
        title="Django Channels: channel layers",
        url="https://channels.readthedocs.io/en/stable/topics/channel_layers.html",
        text="Groups carry a message to consumers on all nodes. A channel layer may"
        " lose messages, so it is a hint and no record.",
    ),
    Note(
        title="Reactive Streams",
        url="https://www.reactive-streams.org/",
        text="Backpressure bounds the memory that slow readers cost: a sender waits"
        " or drops, and no buffer grows without limit.",
    ),
    Note(
        title="OWASP: WebSocket security cheat sheet",
        url="https://cheatsheetseries.owasp.org/cheatsheets/WebSocket_Security_Cheat_Sheet.html",
        text="The handshake checks the origin and the credential; limits on rates,"
        " sizes and connections protect the server against floods of one client.",
    ),
)


def find_words(text: str) -> list[str]:
    """Return the words of a text that tell what it is about, each once."""
    words = (one.casefold() for one in _WORD.findall(text))
    found = [one for one in words if len(one) >= _SHORTEST_WORD and one not in _COMMON]
    return list(dict.fromkeys(found))


def search(query: str, most: int) -> list[Note]:
    """Return the notes that have words of the query, those with rare ones first."""
    wanted = _stem(find_words(query))
    scores = [
        (sum(_WEIGHTS[stem] for stem in _count(note) if stem in wanted), -place, note)
        for place, note in enumerate(NOTES)
    ]
    best = sorted((one for one in scores if one[0]), reverse=True)[:most]
    return [note for _, _, note in best]


def _stem(words: Iterable[str]) -> set[str]:
    return {word[:_STEM_CHARACTERS] for word in words}


def _count(note: Note) -> list[str]:
    """Return the stems of a note; those of its title count more than once."""
    title = _stem(find_words(note.title))
    return [*title] * _TITLE_WEIGHT + [*(_stem(find_words(note.text)) - title)]


_HOLDERS = Counter(stem for note in NOTES for stem in set(_count(note)))
_WEIGHTS = {stem: 1 / count for stem, count in _HOLDERS.items()}
