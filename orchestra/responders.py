"""Answer messages in sessions: with an echo, or with a language model."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from django.core.exceptions import ImproperlyConfigured

from orchestra.completions import (
    Unfinished,
    Unreadable,
    read_pieces,
    read_whole,
)
from sessions_history.entries import MESSAGE
from sessions_history.responders import HistoryMessage, ResponderFailed

_MAX_HISTORY = 50
"""How many entries of the conversation a model gets."""

_MAX_BODY = 2_000_000


class EchoResponder:
    """
    Repeats each message word by word, for tests and demonstrations.

    ECHO_DELAY_SECONDS (0.05) passes before each word.
    """

    def __init__(self, delay_seconds: float | None = None) -> None:
        if delay_seconds is None:
            delay_seconds = _read_seconds("ECHO_DELAY_SECONDS", 0.05)
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

    COMPLETIONS_BASE_URL (http://127.0.0.1:11434/v1, say), COMPLETIONS_MODEL,
    COMPLETIONS_API_KEY and COMPLETIONS_TIMEOUT_SECONDS (30, for each next piece)
    come from the environment.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        environment = os.environ
        base_url = base_url or environment.get("COMPLETIONS_BASE_URL")
        if not base_url:
            raise ImproperlyConfigured(
                "COMPLETIONS_BASE_URL is not set: an endpoint that speaks chat"
                " completions, such as http://127.0.0.1:11434/v1"
            )
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model or environment.get("COMPLETIONS_MODEL", "default")
        self._api_key = api_key or environment.get("COMPLETIONS_API_KEY")
        if timeout_seconds is None:
            timeout_seconds = _read_seconds("COMPLETIONS_TIMEOUT_SECONDS", 30)
        self._timeout_seconds = timeout_seconds
        # Loading certificates takes longer than many requests.
        self._tls = ssl.create_default_context()

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        """
        Yield the model's answer piece by piece.

        Raises:
            ResponderFailed: the endpoint is away, slow, failing, answers something
                else, or ends the answer for another reason than being done.
        """
        try:
            async with (
                httpx.AsyncClient(
                    verify=self._tls, timeout=self._timeout_seconds
                ) as client,
                client.stream(
                    "POST",
                    self._url,
                    headers=self._make_headers(),
                    json=self._make_request(message, history),
                ) as response,
            ):
                async for piece in self._read(response):
                    yield piece
        except httpx.TimeoutException as exc:
            seconds = f"{self._timeout_seconds:g}"
            raise ResponderFailed(f"no word from the model for {seconds} s") from exc
        except httpx.ConnectError as exc:
            raise ResponderFailed("the model cannot be reached") from exc
        except httpx.TransportError as exc:
            raise ResponderFailed("the answer broke off") from exc
        except Unfinished as exc:
            raise ResponderFailed(str(exc)) from exc
        except Unreadable as exc:
            raise ResponderFailed(f"the model's answer is unreadable: {exc}") from exc

    async def _read(self, response: httpx.Response) -> AsyncIterator[str]:
        if response.status_code != httpx.codes.OK:
            raise ResponderFailed(f"the model answered HTTP {response.status_code}")
        if "json" in response.headers.get("content-type", ""):
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise Unreadable("too long")
            yield read_whole(body)
            return
        async for piece in read_pieces(response.aiter_bytes()):
            yield piece

    def _make_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}

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
        return {"model": self._model, "messages": messages, "stream": True}


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


def _read_seconds(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 3600:
        raise ImproperlyConfigured(
            f"{name} is {text!r}: a number of seconds from 0 to 3600 is allowed"
        )
    return seconds
