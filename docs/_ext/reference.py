"""
Write the tables of the reference from the code, before Sphinx reads the pages.

Each page of docs/reference includes one file of docs/reference/_generated.
"""

import ast
import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from django.core.checks.registry import registry
from django.core.management import get_commands, load_command_class
from prometheus_client.core import Metric

from connections.api.openapi import describe_needs
from connections.api.routes import list_operations
from connections.close_codes import CLOSE_REASONS
from connections.config.alert_rules import DEFAULT_RULES
from connections.config.loader import describe
from connections.node.current import get_node
from connections.views.prometheus import NodeCollector
from sessions_history.http.openapi import describe_sessions

ROOT = Path(__file__).resolve().parents[2]
APPS = ("connections", "sessions_history")
_CHECK_FILES = [
    *(ROOT / app / "checks.py" for app in APPS),
    *sorted(ROOT.glob("connections/*/checks.py")),
]
_CLIENT = ROOT / "connections" / "static" / "connections" / "client.js"
_DOC_COMMENT = re.compile(r"^( *)/\*\*(.*?)\*/\n(.*?)$", re.DOTALL | re.MULTILINE)


def make_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def make_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [make_row(heads), make_row("---" for _ in heads)]
    return "\n".join([*lines, *map(make_row, rows)]) + "\n"


def describe_configuration() -> str:
    """Return a table of keys for each section of the configuration."""

    def find_section(key: Any) -> str:
        return str(key.path.rpartition(".")[0])

    parts = []
    for section, members in groupby(sorted(describe(), key=find_section), find_section):
        # No line breaks within code: each item of a list is code of its own.
        rows = [
            (
                f"`{one.path}`",
                f"`{one.default.replace(', ', '`, `')}`",
                one.about,
                one.allowed,
            )
            for one in members
        ]
        title = f"`{section}`" if section else "Top level"
        table = make_table(("key", "default", "meaning", "allowed"), rows)
        parts.append(f"## {title}\n\n{table}")
    return "\n".join(parts)


def describe_alert_rules() -> str:
    """Return a table of the alert rules as they are without configuration."""
    rows = [
        (
            f"`{rule.name}`",
            rule.severity,
            f"{rule.threshold:g}",
            f"{rule.clear:g}",
            f"{rule.for_seconds:g}",
            f"{rule.minimum:g}",
        )
        for rule in DEFAULT_RULES
    ]
    heads = ("name", "severity", "threshold", "clear", "for_seconds", "minimum")
    return make_table(heads, rows)


def describe_commands() -> str:
    """Return what each management command prints for --help."""
    os.environ["COLUMNS"] = "88"
    apps = get_commands()
    parts = []
    for name in sorted(name for name, app in apps.items() if app in APPS):
        command: Any = load_command_class(apps[name], name)
        parser = command.create_parser("manage.py", name)
        parts.append(f"## `{name}`\n\n```text\n{parser.format_help()}```\n")
        for title, child in find_children(parser):
            parts.append(f"### `{name} {title}`\n\n```text\n{child.format_help()}```\n")
    return "\n".join(parts)


def find_children(parser: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parsers of a command's own subcommands."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            yield from action.choices.items()


def describe_checks() -> str:
    """Return a table of the system checks with their messages and hints."""
    of_deployments = find_deployment_ids()
    rows = []
    for path in _CHECK_FILES:
        for name, level, message, hint in find_checks(path):
            command = "check --deploy" if name in of_deployments else "check"
            rows.append((f"`{name}`", level, f"`{command}`", message, hint))
    return make_table(("id", "level", "run by", "message", "hint"), sorted(rows))


def find_deployment_ids() -> set[str]:
    """Return the ids of the checks of --deploy, which their docstrings name."""
    found = set()
    for function in registry.deployment_checks:
        app, _, names = (function.__doc__ or "").strip().partition(".")
        if app in APPS:
            heading = names.partition(":")[0]
            for first, last in re.findall(
                r"([A-Z]\d{3})(?: to ([A-Z]\d{3}))?", heading
            ):
                numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
                found |= {f"{app}.{first[0]}{number:03}" for number in numbers}
    return found


def find_checks(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield id, level, message and hint of each check that a module makes."""
    app = path.parent.name
    tree = ast.parse(path.read_text())
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def render(node: ast.AST) -> str:
        """Return the text of a string, with an ellipsis for what varies."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(map(render, node.values))
        if isinstance(node, ast.Name) and node.id in ("message", "hint"):
            return render(named[node.id])
        return "…"

    for owner in tree.body:
        if not isinstance(owner, ast.FunctionDef):
            continue
        for node in ast.walk(owner):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            if function == "_warn":
                number, message, hint = node.args
                identifier = f"{app}.W{ast.literal_eval(number):03}"
                yield identifier, "warning", render(message), render(hint)
            elif function in ("checks.Error", "checks.Warning", "checks.Info"):
                given = {one.arg: one.value for one in node.keywords}
                if isinstance(given["id"], ast.Constant):
                    level = function.rpartition(".")[2].lower()
                    text = render(node.args[0])
                    if text == "…":  # The docstring describes the messages.
                        text = (ast.get_docstring(owner) or "").partition(": ")[2]
                    identifier = str(given["id"].value)
                    yield identifier, level, text, render(given["hint"])


def describe_close_codes() -> str:
    """Return the registry of close codes as a table."""
    rows = [
        (
            str(one.code),
            f"`{one.reason}`",
            f"`{one.reconnect.value}`",
            "yes" if one.resume else "no",
            "{} to {}".format(*one.after_ms) if one.after_ms else "",
        )
        for one in sorted(CLOSE_REASONS.values(), key=lambda one: one.code)
    ]
    return make_table(("code", "reason", "reconnect", "resume", "after_ms"), rows)


def describe_metrics() -> str:
    """Return a table of the series that a node exports."""

    async def collect() -> list[Metric]:
        get_node()
        return list(NodeCollector().collect())

    rows = []
    for metric in asyncio.run(collect()):
        suffix = "_total" if metric.type == "counter" else ""
        labels = {label for sample in metric.samples for label in sample.labels}
        of = ",".join(sorted(labels - {"le"}))
        name = f"`{metric.name}{suffix}{{{of}}}`" if of else f"`{metric.name}{suffix}`"
        rows.append((name, metric.type, metric.documentation))
    return make_table(("series", "type", "meaning"), sorted(rows))


def describe_javascript() -> str:
    """Return what the modules of the client export, from their JSDoc comments."""
    return "\n".join(
        [
            describe_class(_CLIENT, "SessionClient", "Options"),
            describe_class(
                _CLIENT.with_name("shared.js"), "SharedConnection", "SharedOptions"
            ),
            describe_class(_CLIENT.with_name("http.js"), "HttpSessions", "HttpOptions"),
        ]
    )


def describe_class(path: Path, name: str, options_name: str) -> str:
    """Return the members and the options of a class, from its JSDoc comments."""
    text = path.read_text()
    start = text.index(f"export class {name}")
    head = text[:start].rpartition("/**")[2].partition("*/")[0]
    rows = []
    for match in re.finditer(_DOC_COMMENT, text[start:]):
        signature = match[3].strip().removesuffix("{").strip().rstrip(";")
        if match[1] == "  " and not signature.startswith(("#", "async #", "/**")):
            rows.append((f"`{signature}`", clean(match[2])))
    types = re.findall(
        r"@typedef \{((?:(?!@typedef).)*?)\} (\w+)(?: [^\n]*)?$", text, re.M | re.S
    )
    options = next(body for body, name in types if name == options_name)
    return "\n".join(
        [
            f"## `{name}`\n\n{clean(head)}\n",
            make_table(("member", "meaning"), rows),
            f"## Options of `{name}`\n",
            "```ts\n" + re.sub(r"\n \* +", "\n  ", options) + "\n```\n",
        ]
    )


def clean(comment: str) -> str:
    """Return the prose of a JSDoc comment, then its parameters."""
    lines = (line.strip().removeprefix("*").strip() for line in comment.splitlines())
    prose, *tags = re.split(r" @(?=param)", " " + " ".join(lines).strip())
    parts = [prose.partition(" @")[0].strip()]
    for tag in tags:
        if found := re.match(r"param \{(.*)\} (\[?\w+\]?) ?(.*)", tag):
            kind, name, meaning = found.groups()
            parts.append(f"`{name}`: `{kind}`{meaning and ', ' + meaning}.")
    return " ".join(filter(None, parts))


def describe_operations() -> str:
    """Return the operations of the API, each with its parameters or its body."""
    parts = []
    for one in sorted(list_operations(), key=lambda one: (one.path, one.method)):
        needs = describe_needs(one)
        text = f"## `{one.method} {one.path}`\n\n{one.about} {needs}".rstrip()
        rows = [
            (
                f"`{key.name}`",
                key.about,
                key.kind.allowed,
                "yes" if key.is_required else "no",
            )
            for key in (*one.query, *one.body)
        ]
        heads = ("field" if one.body else "parameter", "meaning", "allowed", "required")
        parts.append(f"{text}\n\n{make_table(heads, rows) if rows else ''}".rstrip())
    return "\n\n".join(parts) + "\n"


def describe_session_operations() -> str:
    """Return the operations of the HTTP API of sessions, from their document."""
    parts = []
    for path, item in describe_sessions("/api/sessions")["paths"].items():
        for method, one in item.items():
            if one["operationId"].startswith("head_"):
                continue
            heads = f"## `{method.upper()} {path}`\n\n{one['description']}"
            given = [
                (f"`{key['name']}`", key["in"], key["description"])
                for key in one["parameters"]
            ]
            table = make_table(("parameter", "in", "meaning"), given) if given else ""
            parts += [heads, table, _describe_body(one), _describe_responses(one)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _describe_body(operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    choices = schema.get("oneOf", [schema])
    if "properties" not in choices[0]:
        return f"The body: {schema['description']}"
    fields = (
        ", ".join(
            f"`{name}`" + ("" if name in one["required"] else " (optional)")
            for name in one["properties"]
        )
        for one in choices
    )
    titled = (
        f"`{one['title']}` with {names}" if "title" in one else names
        for one, names in zip(choices, fields, strict=True)
    )
    return f"The body: {'; or '.join(titled)}."


def _describe_responses(operation: dict[str, Any]) -> str:
    rows = []
    for status, one in operation["responses"].items():
        shown = one["description"]
        if int(status) >= 400:
            schema = one["content"]["application/json"]["schema"]
            codes = schema["properties"]["error"]["properties"]["code"]["enum"]
            shown = ", ".join(f"`{code}`" for code in codes)
        headers = ", ".join(f"`{name}`" for name in one.get("headers", ()))
        rows.append((status, shown, headers))
    return make_table(("status", "answer, or codes of errors", "headers"), rows)


PAGES = {
    "configuration": describe_configuration,
    "alert_rules": describe_alert_rules,
    "commands": describe_commands,
    "checks": describe_checks,
    "close_codes": describe_close_codes,
    "metrics": describe_metrics,
    "api": describe_operations,
    "sessions_api": describe_session_operations,
    "javascript": describe_javascript,
}


def write_pages(app: Any) -> None:
    """Write every generated table that has changed."""
    folder = Path(app.srcdir) / "reference" / "_generated"
    folder.mkdir(exist_ok=True)
    for name, describe_page in PAGES.items():
        path, text = folder / f"{name}.md", describe_page()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx write the tables before it reads the pages."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
