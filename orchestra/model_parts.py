"""Read the parts of a model's answer besides its text: reasoning, tool calls, usage."""

import json
from collections.abc import Collection
from typing import Any

from sessions_history.parts import REASONING, TOOL_CALL, Part

_REASONING_TEXTS = ("reasoning", "reasoning_content")
"""Fields with the reasoning of a model, of OpenRouter, DeepSeek, vLLM and Ollama."""

_REASONING_LIST = "reasoning_details"
"""The field of OpenRouter whose items have what is in `reasoning`, or more."""


class ModelParts:
    """The parts of one answer; its tool calls grow by their index."""

    def __init__(self, taken: Collection[str] = ()) -> None:
        """Begin the parts of a response; calls get none of the ids that are taken."""
        self._taken = set(taken)
        self._ids: dict[int, str] = {}
        self._given: dict[int, Any] = {}

    def read(self, content: dict[str, Any]) -> list[Part]:
        """Return what is new in the content of a choice."""
        reasoning = _read_reasoning(content)
        parts = [Part(REASONING, text=reasoning)] if reasoning else []
        calls = content.get("tool_calls")
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                index = call.get("index")
                index = index if isinstance(index, int) else number
                parts.append(self._read_call(index, call.get("id"), call))
        old = content.get("function_call")
        if isinstance(old, dict):
            parts.append(self._read_call(-1, None, {"function": old}))
        return parts

    def _read_call(self, index: int, call_id: Any, call: dict[str, Any]) -> Part:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name, given = function.get("name"), self._given.get(index)
        # Ollama gives the same index to all calls.
        is_other = name and call_id and given and call_id != given
        if index not in self._ids or is_other:
            self._given[index] = call_id
            is_usable = isinstance(call_id, str) and 0 < len(call_id) <= 100
            is_usable = is_usable and call_id.isprintable()
            number = len(self._taken) + 1
            while not is_usable or call_id in self._taken:
                call_id, is_usable, number = f"call-{number}", True, number + 1
            self._ids[index] = call_id
            self._taken.add(call_id)
        fields: dict[str, str] = {}
        if isinstance(name, str) and name:
            fields["name"] = name
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            # Some servers send them parsed.
            arguments = json.dumps(arguments, ensure_ascii=False)
        if isinstance(arguments, str) and arguments:
            fields["arguments"] = arguments
        return Part(TOOL_CALL, id=self._ids[index], **fields)


def read_usage(usage: Any, part_id: str = "usage") -> Part | None:
    """Return the tokens that a model counted, or None."""
    if not isinstance(usage, dict):
        return None
    names = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    counts = {name: usage.get(given) for name, given in names.items()}
    fields: dict[str, Any] = {
        name: count
        for name, count in counts.items()
        if isinstance(count, int) and not isinstance(count, bool)
    }
    # The same id: a server that sends it with each chunk replaces the former one.
    return Part("usage", id=part_id, **fields) if fields else None


def _read_reasoning(content: dict[str, Any]) -> str:
    for name in _REASONING_TEXTS:
        if isinstance(text := content.get(name), str) and text:
            return text
    if text := _join(content.get(_REASONING_LIST), "text", "summary"):
        return text
    items = content.get("content")
    thoughts = [
        _join(one.get("thinking"), "text")
        for one in (items if isinstance(items, list) else ())
        if isinstance(one, dict)
    ]
    return "".join(thoughts)


def _join(items: Any, *names: str) -> str:
    """Join the texts of a list of objects, which are under one of some names."""
    if isinstance(items, str):
        return items
    found = (
        one.get(name)
        for one in (items if isinstance(items, list) else ())
        if isinstance(one, dict)
        for name in names
    )
    return "".join(text for text in found if isinstance(text, str))
