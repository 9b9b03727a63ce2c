"""Parse chat completions: server-sent events, piece by piece."""

import json
from collections.abc import AsyncIterator
from typing import Any

_MAX_LINE = 1_000_000
_DONE = "[DONE]"


class Unreadable(Exception):
    """The response is not an answer of the API."""


async def read_pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """
    Yield the pieces of text of a streamed answer.

    The API ends with `[DONE]`; servers that leave it out send a `finish_reason`.

    Raises:
        Unreadable: it is something else, or broke off before its end.
    """
    is_finished = False
    async for line in _split_lines(chunks):
        # Comments keep the connection alive; event names and ids carry nothing here.
        field, _, value = line.partition(":")
        if field != "data":
            continue
        value = value.strip()
        if value == _DONE:
            return
        piece, is_last = _read_chunk(value)
        is_finished = is_finished or is_last
        if piece:
            yield piece
    if not is_finished:
        raise Unreadable("the answer broke off")


def read_whole(body: bytes) -> str:
    """
    Return the text of an answer that was not streamed.

    Raises:
        Unreadable: it is something else.
    """
    choice = _read_choice(body.decode("utf-8", "replace"))
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise Unreadable("an answer without text")
    return text


def _read_chunk(text: str) -> tuple[str, bool]:
    """Return a chunk's piece of text, and whether the answer ends with it."""
    choice = _read_choice(text)
    delta = choice.get("delta")
    piece = delta.get("content") if isinstance(delta, dict) else None
    return (
        piece if isinstance(piece, str) else "",
        choice.get("finish_reason") is not None,
    )


def _read_choice(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Unreadable("no JSON") from exc
    choices = content.get("choices") if isinstance(content, dict) else None
    if choices == []:
        return {}  # The last chunk may carry the usage alone.
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Unreadable("no choices")
    choice: dict[str, Any] = choices[0]
    return choice


async def _split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Split by bytes: a chunk may end within a character, or between CR and LF."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
        if len(rest) > _MAX_LINE:
            raise Unreadable("a line without end")
    if rest:
        yield rest.decode("utf-8", "replace")
