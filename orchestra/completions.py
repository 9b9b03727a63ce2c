"""Parse chat completions: server-sent events, piece by piece."""

import json
from collections.abc import AsyncIterator
from typing import Any

_MAX_LINE = 1_000_000
_DONE = "[DONE]"


class Unreadable(Exception):
    """The response is not an answer of the API."""


class Unfinished(Exception):
    """The model ended its answer, but not as done; the text says why."""


_ENDS = {
    "length": "the answer was cut off at the limit of the model",
    "content_filter": "a content filter of the model ended the answer",
    "tool_calls": "the model asked for a tool, and none is offered",
    "function_call": "the model asked for a tool, and none is offered",
}
"""Reasons of the API for an end that is no whole answer."""

_MAX_REFUSAL = 500


class Answer:
    """What is known of an answer besides its text: its end, and a refusal."""

    def __init__(self) -> None:
        self.is_finished = False
        self._reason = "stop"
        self._refusal = ""
        self._has_text = False

    def read(self, choice: dict[str, Any], part: str) -> str:
        """Return the text of a choice, whose part is `delta` or `message`."""
        reason = choice.get("finish_reason")
        if reason is not None:
            self.is_finished, self._reason = True, str(reason)
        content = choice.get(part)
        if not isinstance(content, dict):
            return ""
        refusal = content.get("refusal")
        if isinstance(refusal, str):
            self._refusal = (self._refusal + refusal)[:_MAX_REFUSAL]
        text = content.get("content")
        if not isinstance(text, str):
            return ""
        self._has_text = self._has_text or bool(text.strip())
        return text

    def check(self) -> None:
        """
        Check at the end that the answer is a whole one.

        Raises:
            Unfinished: it was cut off, filtered, refused, or has no text.
        """
        if self._refusal:
            raise Unfinished(f"the model refused: {self._refusal}")
        if self._reason in _ENDS:
            raise Unfinished(_ENDS[self._reason])
        if not self._has_text:
            raise Unfinished("the model gave an empty answer")


async def read_pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """
    Yield the pieces of text of a streamed answer.

    The API ends with `[DONE]`; servers that leave it out send a `finish_reason`.

    Raises:
        Unreadable: it is something else, or broke off before its end.
        Unfinished: the model ended it for another reason than being done.
    """
    answer = Answer()
    async for line in _split_lines(chunks):
        # Comments keep the connection alive; event names and ids carry nothing here.
        field, _, value = line.partition(":")
        if field != "data":
            continue
        value = value.strip()
        if value == _DONE:
            answer.is_finished = True
            break
        if piece := answer.read(_read_choice(value), "delta"):
            yield piece
    if not answer.is_finished:
        raise Unreadable("the answer broke off")
    answer.check()


def read_whole(body: bytes) -> str:
    """
    Return the text of an answer that was not streamed.

    Raises:
        Unreadable: it is something else.
        Unfinished: the model ended it for another reason than being done.
    """
    answer = Answer()
    choice = _read_choice(body.decode("utf-8", "replace"))
    text = answer.read(choice, "message")
    answer.check()
    return text


def _read_choice(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Unreadable("no JSON") from exc
    if not isinstance(content, dict):
        raise Unreadable("no choices")
    if content.get("error"):
        raise Unfinished(f"the model failed: {_describe(content['error'])}")
    choices = content.get("choices")
    if choices == []:
        return {}  # The last chunk may carry the usage alone.
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Unreadable("no choices")
    choice: dict[str, Any] = choices[0]
    return choice


def _describe(error: Any) -> str:
    """Return the kind of an error of the API; its text may hold what is secret."""
    if isinstance(error, dict):
        error = error.get("code") or error.get("type")
    return str(error)[:100] if isinstance(error, str | int) else "without a reason"


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
