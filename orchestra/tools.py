"""Run the tools that a model asks for, and tell the model their results."""

import inspect
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from connections.exceptions import InvalidMessage
from connections.parts import TEXT
from sessions_history.parts import TOOL_CALL, Part
from sessions_history.payloads import clean_text, dump
from sessions_history.responders import AnswerContext, ResponderFailed

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}
"""Names of JSON Schema."""


class ToolFailed(Exception):
    """A tool has no result; the text tells the model why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """An asynchronous function that a model may call with named arguments."""

    run: Callable[..., Awaitable[Any]]
    """Its result is JSON. ToolFailed tells the model of a failure; any other
    exception is logged."""
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    """A JSON Schema of the arguments."""
    needs_approval: bool = False
    """A person has to approve each call."""


AnyTool = Tool | Callable[..., Awaitable[Any]]


def make_tools(given: Mapping[str, AnyTool]) -> dict[str, Tool]:
    """
    Return tools by name; of a function, its docstring and annotations describe it.

    Raises:
        ValueError: a name has other characters than APIs allow.
        TypeError: a function is not asynchronous.
    """
    tools = {}
    for name, one in given.items():
        if not _NAME.fullmatch(name):
            text = "1 to 64 of A-Z a-z 0-9 _ -"
            raise ValueError(f"the name of a tool has {text}, not {name!r}")
        tool = one if isinstance(one, Tool) else _describe(one)
        if not inspect.iscoroutinefunction(tool.run):
            raise TypeError(f"the tool {name} is no asynchronous function")
        tools[name] = tool
    return tools


def _describe(function: Callable[..., Awaitable[Any]]) -> Tool:
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    kinds = {one.name: _TYPES.get(hints.get(one.name, object)) for one in parameters}
    schema = {
        "type": "object",
        "properties": {
            name: {"type": kind} if kind else {} for name, kind in kinds.items()
        },
        "required": [one.name for one in parameters if one.default is one.empty],
    }
    description = inspect.getdoc(function) or ""
    return Tool(run=function, description=description, parameters=schema)


def to_request(tools: Mapping[str, Tool]) -> list[dict[str, Any]]:
    """Return the tools as a request to chat completions offers them."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for name, tool in tools.items()
    ]


@dataclass(slots=True, kw_only=True)
class _Call:
    part_id: str
    name: str = ""
    arguments: str = ""
    content: str | None = None
    """The result as the model gets it; None before the tool has run."""


@dataclass(slots=True)
class _Round:
    """What a model said in one response, and the calls that it asked for."""

    text: str = ""
    calls: dict[str, _Call] = field(default_factory=dict)


class ToolRounds:
    """
    The rounds of one answer: the model asks for tools, gets results and goes on.

    An answer that another node has begun goes on with the calls that it left.
    """

    def __init__(
        self, tools: Mapping[str, Tool], most: int, context: AnswerContext | None
    ) -> None:
        self._tools = tools
        self._most = most
        self._context = context
        self._rounds = [_Round()]
        for part in context.parts if context is not None else ():
            self._take_up(part)

    @property
    def ids(self) -> set[str]:
        """The ids of the calls so far."""
        return {part_id for one in self._rounds for part_id in one.calls}

    @property
    def usage_id(self) -> str:
        """The id of the part with the usage of the next response."""
        number = len(self._rounds)
        return "usage" if number == 1 else f"usage-{number}"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The rounds so far as messages of chat completions."""
        found: list[dict[str, Any]] = []
        for one in self._rounds:
            if not one.calls:
                continue
            calls = [
                {
                    "id": call.part_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in one.calls.values()
            ]
            content = one.text or None
            found.append({"role": "assistant", "content": content, "tool_calls": calls})
            found += [
                {"role": "tool", "tool_call_id": call.part_id, "content": call.content}
                for call in one.calls.values()
            ]
        return found

    def observe(self, piece: str | Part) -> None:
        """Follow what the model says."""
        if isinstance(piece, str):
            self._rounds[-1].text += piece
        elif piece.type == TOOL_CALL:
            call = self._find(piece.id)
            call.name = piece.fields.get("name", call.name)
            call.arguments += piece.fields.get("arguments", "")

    def has_calls(self) -> bool:
        """Return True if calls of the last round wait for their results."""
        calls = self._rounds[-1].calls.values()
        return any(call.content is None for call in calls)

    async def run_calls(self) -> AsyncIterator[Part]:
        """
        Run the calls of the last round, one after the other, and begin the next one.

        Raises:
            ResponderFailed: the answer has as many rounds as allowed.
        """
        if len(self._rounds) >= self._most:
            raise ResponderFailed(f"the model used tools in {self._most} rounds")
        for call in self._rounds[-1].calls.values():
            if call.content is None:
                async for part in self._run(call):
                    yield part
        self._rounds.append(_Round())

    async def _run(self, call: _Call) -> AsyncIterator[Part]:
        try:
            tool, arguments = self._read(call)
            if tool.needs_approval:
                if self._context is None:
                    raise ToolFailed("nobody can approve this call")
                decision = await self._context.approval(call.part_id)
                if not decision.is_approved:
                    note = {"note": decision.note} if decision.note else {}
                    call.content = _dump({"error": decision.state, **note})
                    return
            else:
                yield Part(TOOL_CALL, id=call.part_id, state="running")
            result = await _run(call.name, tool, arguments)
        except ToolFailed as exc:
            result, state = {"error": clean_text(str(exc))}, "error"
        else:
            state = "done"
        call.content = _dump(result)
        yield Part(TOOL_CALL, id=call.part_id, state=state, result=result)

    def _read(self, call: _Call) -> tuple[Tool, dict[str, Any]]:
        tool = self._tools.get(call.name)
        if tool is None:
            offered = ", ".join(self._tools)
            raise ToolFailed(f"no tool {call.name!r} is offered, but {offered}")
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as exc:
            raise ToolFailed("the arguments are no JSON") from exc
        if not isinstance(arguments, dict):
            raise ToolFailed("the arguments are no object of JSON")
        return tool, arguments

    def _take_up(self, part: Mapping[str, Any]) -> None:
        """Follow a part that the answer has."""
        if part["type"] == TEXT:
            # Some servers send the text of a response after its calls.
            if self._rounds[-1].calls and not self.has_calls():
                self._rounds.append(_Round())
            self._rounds[-1].text += part["text"]
        elif part["type"] == TOOL_CALL:
            call = self._find(part["id"])
            call.name = part.get("name", "")
            call.arguments = part.get("arguments", "")
            outcome = part.get("approval", {}).get("state")
            if "result" in part:
                call.content = _dump(part["result"])
            elif part.get("state") == "denied":
                call.content = _dump({"error": outcome or "denied"})

    def _find(self, part_id: str) -> _Call:
        calls = self._rounds[-1].calls
        return calls.setdefault(part_id, _Call(part_id=part_id))


async def _run(name: str, tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """
    Return the result of a tool.

    Raises:
        ToolFailed: it failed, was called wrongly, or its result cannot be stored.
    """
    try:
        inspect.signature(tool.run).bind(**arguments)
    except TypeError as exc:
        raise ToolFailed(f"wrong arguments: {exc}") from exc
    try:
        result = await tool.run(**arguments)
        if isinstance(result, str):
            result = clean_text(result)
        # As deep as in a part.
        dump({"result": result}, "the result")
    except ToolFailed:
        raise
    except Exception as exc:
        logger.error(
            "The tool %s failed: %s",
            name,
            type(exc).__name__,
            exc_info=exc,
            extra={"event": "tool_failed"},
        )
        is_unfit = isinstance(exc, InvalidMessage)
        raise ToolFailed(str(exc) if is_unfit else "the tool failed") from exc
    return result


def _dump(result: Any) -> str:
    return json.dumps(result, ensure_ascii=False, allow_nan=False)
