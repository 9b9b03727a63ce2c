"""Answer messages in sessions: with an echo, or with a language model."""

import asyncio
import json
import logging
import math
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from django.core.exceptions import ImproperlyConfigured

from orchestra.completions import (
    Answer,
    AskedForTool,
    Unfinished,
    Unreadable,
    read_pieces,
    read_reason,
    read_whole,
)
from orchestra.environment import (
    check_body,
    check_headers,
    read_count,
    read_key,
    read_object,
    read_seconds,
    read_temperature,
)
from orchestra.tools import AnyTool, ToolRounds, make_tools, to_request
from sessions_history.entries import MESSAGE
from sessions_history.parts import Part
from sessions_history.responders import (
    AnswerContext,
    HistoryMessage,
    ResponderFailed,
)

logger = logging.getLogger(__name__)

_MAX_HISTORY = 50
"""How many entries of the conversation a model gets."""

_CONNECT_SECONDS = 30
"""How long a connection may take, and the sending of a request."""

_MAX_BODY = 2_000_000
_MAX_REASON_BYTES = 20_000

_AZURE = "api-version"
"""The parameter that URLs of Azure have; its keys come in a header of their own."""

_PATH = "/chat/completions"

_SECONDS = re.compile(r"[0-9]{1,6}")
_MOST_WAIT_SECONDS = 10**6


class EchoResponder:
    """
    Repeats each message word by word, for tests and demonstrations.

    ECHO_DELAY_SECONDS (0.05) passes before each word.
    """

    def __init__(self, delay_seconds: float | None = None) -> None:
        if delay_seconds is None:
            delay_seconds = read_seconds("ECHO_DELAY_SECONDS", 0.05)
        self._delay_seconds = delay_seconds

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        """Yield the message's text again."""
        for word in re.findall(r"\s*\S+|\s+", get_text(message)):
            await asyncio.sleep(self._delay_seconds)
            yield word


class CompletionsResponder:
    """
    Asks an endpoint of OpenAI's chat completions API, with streaming.

    Reasoning, tool calls and usage are parts of the answer, if the model sends them.
    With `tools` the responder runs those that the model asks for, one after the
    other, and tells it their results, in at most `max_tool_rounds` requests. Another
    node goes on with an answer that waits for an approval.

    COMPLETIONS_BASE_URL (http://127.0.0.1:11434/v1, say), COMPLETIONS_MODEL and
    COMPLETIONS_API_KEY come from the environment. So do these:

    - COMPLETIONS_FIRST_TIMEOUT_SECONDS (120, or the next if that is longer) bounds
      the silence before the first piece, in which a cold model loads;
      COMPLETIONS_TIMEOUT_SECONDS (30) bounds the silence after it.
    - COMPLETIONS_SYSTEM_PROMPT, COMPLETIONS_TEMPERATURE and COMPLETIONS_MAX_TOKENS.
    - COMPLETIONS_EXTRA_BODY and COMPLETIONS_EXTRA_HEADERS, JSON objects that are
      added to each request, and replace what they name.
    """

    is_resumable = True

    def __init__(
        self,
        *,
        base_url: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float | None = None,
        first_timeout_seconds: float | None = None,
        system_prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        tools: Mapping[str, AnyTool] | None = None,
        max_tool_rounds: int = 8,
    ) -> None:
        self._tools = make_tools(tools or {})
        self._max_tool_rounds = max_tool_rounds
        environment = os.environ
        base_url = base_url or environment.get("COMPLETIONS_BASE_URL")
        if not base_url:
            raise ImproperlyConfigured(
                "COMPLETIONS_BASE_URL is not set: an endpoint that speaks chat"
                " completions, such as http://127.0.0.1:11434/v1"
            )
        self._url = _make_url(base_url)
        self._model = model or environment.get("COMPLETIONS_MODEL", "default")
        self._api_key = read_key("COMPLETIONS_API_KEY", api_key)
        if timeout_seconds is None:
            timeout_seconds = read_seconds("COMPLETIONS_TIMEOUT_SECONDS", 30)
        self._timeout_seconds = timeout_seconds
        if first_timeout_seconds is None:
            first_timeout_seconds = read_seconds(
                "COMPLETIONS_FIRST_TIMEOUT_SECONDS", max(120, timeout_seconds)
            )
        self._first_timeout_seconds = first_timeout_seconds
        self._system_prompt = system_prompt or environment.get(
            "COMPLETIONS_SYSTEM_PROMPT"
        )
        self._extra_headers = extra_headers or read_object("COMPLETIONS_EXTRA_HEADERS")
        check_headers("COMPLETIONS_EXTRA_HEADERS", self._extra_headers)
        extra_body = extra_body or read_object("COMPLETIONS_EXTRA_BODY")
        check_body("COMPLETIONS_EXTRA_BODY", extra_body)
        if temperature is None:
            temperature = read_temperature("COMPLETIONS_TEMPERATURE")
        if max_tokens is None:
            max_tokens = read_count("COMPLETIONS_MAX_TOKENS")
        parameters: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if self._tools:
            parameters["tools"] = to_request(self._tools)
        given = {key: one for key, one in parameters.items() if one is not None}
        self._parameters = {**given, **extra_body}
        # Loading certificates takes longer than many requests.
        self._tls = ssl.create_default_context()

    async def respond(
        self,
        message: Any,
        history: Sequence[HistoryMessage],
        context: AnswerContext | None = None,
    ) -> AsyncIterator[str | Part]:
        """
        Yield the model's answer piece by piece, and the results of its tools.

        Raises:
            ResponderFailed: the endpoint is away, slow, failing, answers something
                else, or ends the answer for another reason than being done.
        """
        rounds = ToolRounds(self._tools, self._max_tool_rounds, context)
        request = self._make_request(message, history)
        # The silence bounds what is read.
        longest_seconds = max(self._first_timeout_seconds, self._timeout_seconds)
        timeout = httpx.Timeout(min(longest_seconds, _CONNECT_SECONDS), read=None)
        async with httpx.AsyncClient(verify=self._tls, timeout=timeout) as client:
            while True:
                if rounds.has_calls():
                    async for part in rounds.run_calls():
                        yield part
                messages = [*request["messages"], *rounds.messages]
                content = {**request, "messages": messages}
                pieces = self._ask_once(client, content, rounds)
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
                if not rounds.has_calls():
                    return

    async def _ask_once(
        self, client: httpx.AsyncClient, content: dict[str, Any], rounds: ToolRounds
    ) -> AsyncGenerator[str | Part]:
        """Yield the pieces of one response, which may ask for tools that there are."""
        silence = _Silence(self._first_timeout_seconds)
        answer = Answer(rounds.ids, rounds.usage_id)
        try:
            async with aclosing(self._ask(client, content, silence, answer)) as pieces:
                async for piece in pieces:
                    silence.most_seconds = self._timeout_seconds
                    rounds.observe(piece)
                    if piece:
                        yield piece
        except TimeoutError as exc:
            seconds = f"{silence.most_seconds:g}"
            raise ResponderFailed(f"no word from the model for {seconds} s") from exc
        except (httpx.ConnectError, httpx.TimeoutException) as exc:
            raise ResponderFailed("the model cannot be reached") from exc
        except httpx.RequestError as exc:
            raise ResponderFailed("the answer broke off") from exc
        except Unfinished as exc:
            is_expected = isinstance(exc, AskedForTool) and self._tools
            if not is_expected or not rounds.has_calls():
                raise ResponderFailed(str(exc)) from exc
        except Unreadable as exc:
            raise ResponderFailed(f"the model's answer is unreadable: {exc}") from exc

    async def _ask(
        self,
        client: httpx.AsyncClient,
        content: dict[str, Any],
        silence: "_Silence",
        answer: Answer,
    ) -> AsyncGenerator[str | Part]:
        request = client.build_request(
            "POST", self._url, headers=self._make_headers(), json=content
        )
        async with asyncio.timeout(silence.most_seconds):
            response = await client.send(request, stream=True)
        try:
            chunks = silence.bound(response.aiter_bytes())
            async for piece in _read(response, chunks, answer):
                yield piece
        finally:
            await response.aclose()

    def _make_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._api_key and _AZURE in self._url.params:
            headers["api-key"] = self._api_key
        elif self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        extra = {name.lower(): one for name, one in self._extra_headers.items()}
        return {**headers, **extra}

    def _make_request(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> dict[str, Any]:
        messages: list[dict[str, str]] = []
        for one in history[-_MAX_HISTORY:]:
            # Other kinds, such as notices of staff, are no words of the model.
            if one.kind == MESSAGE and (text := get_text(one.data)):
                role = "user" if one.sender == "client" else "assistant"
                _add(messages, role, text)
        _add(messages, "user", get_text(message))
        if self._system_prompt:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        request = {"model": self._model, "messages": messages, "stream": True}
        return {**request, **self._parameters}


class _Silence:
    """How long a model may be silent; its first piece may take longer."""

    def __init__(self, most_seconds: float) -> None:
        self.most_seconds = most_seconds

    async def bound(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """
        Yield chunks as they come.

        Raises:
            TimeoutError: the next one takes too long.
        """
        while True:
            try:
                async with asyncio.timeout(self.most_seconds):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            yield chunk


async def _read(
    response: httpx.Response, chunks: AsyncIterator[bytes], answer: Answer
) -> AsyncIterator[str | Part]:
    """Yield the pieces of a response, and empty ones for what is no answer."""
    if response.status_code != httpx.codes.OK:
        raise await _read_failure(response, chunks)
    if "json" in response.headers.get("content-type", ""):
        body = b""
        async for chunk in chunks:
            body += chunk
            if len(body) > _MAX_BODY:
                raise Unreadable("too long")
        for piece in read_whole(body, answer):
            yield piece
        return
    async for piece in read_pieces(chunks, answer):
        yield piece


def _make_url(base_url: str) -> httpx.URL:
    """
    Return the URL of an endpoint, with the query of its base as Azure needs it.

    Raises:
        ImproperlyConfigured: the base is no URL of HTTP.
    """
    try:
        base = httpx.URL(base_url)
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise ImproperlyConfigured(
            f"COMPLETIONS_BASE_URL is {base_url!r}: a URL that begins with http:// or"
            " https:// is allowed, such as http://127.0.0.1:11434/v1"
        )
    path = base.path.rstrip("/").removesuffix(_PATH)
    return base.copy_with(path=path + _PATH)


async def _read_failure(
    response: httpx.Response, chunks: AsyncIterator[bytes]
) -> ResponderFailed:
    """Log why an endpoint failed; return what the client and staff learn of it."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > _MAX_REASON_BYTES:
            break
    status = response.status_code
    reason = read_reason(body) or "without a reason"
    logger.warning(
        "The model answered HTTP %s: %s",
        status,
        reason,
        extra={"event": "model_failed"},
    )
    wait = _read_wait(response.headers.get("retry-after", ""))
    again = f"; try again in {wait} s" if wait else ""
    text = f"the model answered HTTP {status}"
    return ResponderFailed(f"{text}{again}", reason=f"{text}: {reason}\n")


def _read_wait(value: str) -> int | None:
    """Return the seconds of a Retry-After, which may name a date; None for neither."""
    if _SECONDS.fullmatch(value):
        return int(value)
    with suppress(ValueError, OverflowError):
        at = parsedate_to_datetime(value)
        # RFC 9110, section 5.6.7: a date without a zone is in UTC.
        zoned = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = math.ceil((zoned - datetime.now(UTC)).total_seconds())
        return seconds if 0 < seconds < _MOST_WAIT_SECONDS else None
    return None


def _add(messages: list[dict[str, str]], role: str, text: str) -> None:
    """
    Add a message; some servers insist that the roles alternate, from a user on.

    An answer that failed leaves two messages of the user in a row: they are joined.
    """
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += f"\n\n{text}"
    elif messages or role == "user":
        messages.append({"role": role, "content": text})


def get_text(content: Any) -> str:
    """Return the text of a message, else its JSON."""
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        text: str = content["text"]
        return text
    if isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False)
