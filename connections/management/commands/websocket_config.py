import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings
from django.core.management.base import CommandParser

from connections.config.fields import Documented
from connections.config.loader import (
    ENVIRONMENT_PREFIX,
    WebSocketConfig,
    describe,
    get_config,
    read_value,
)
from connections.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Show the configuration in force, with the source of each value."

    def add_arguments(self, parser: CommandParser) -> None:
        forms = parser.add_mutually_exclusive_group()
        forms.add_argument(
            "--json", action="store_true", help="print values and sources as JSON"
        )
        forms.add_argument(
            "--table",
            action="store_true",
            help="print keys and defaults as a Markdown table",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys = describe()
        if options["table"]:
            self.stdout.write(make_table(keys))
            return
        given = _read_given()
        values = {
            key.path: {
                "value": read_value(get_config(), key.path),
                "from": find_source(key.path, given),
            }
            for key in keys
        }
        if options["json"]:
            self.stdout.write(json.dumps(values))
            return
        for path, one in values.items():
            self.stdout.write(f"{path}: {json.dumps(one['value'])}  # {one['from']}")


def make_table(keys: list[Documented]) -> str:
    """Return a Markdown table of the keys."""
    rows = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{key.path}` | `{key.default}` | {key.allowed} | {key.about} |"
        for key in keys
    ]
    return "\n".join(rows)


def find_source(path: str, given: object) -> str:
    """Return the source of a value: a variable, the file, settings or "default"."""
    parts = path.split(".")
    source = get_config().source if _has(given, parts) else ""
    # In the order in which they override; one of a section replaces all of it.
    for name, text in os.environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        named = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if all(one == other for one, other in zip(named, parts, strict=False)):
            try:
                content = yaml.safe_load(text)
            except (ValueError, yaml.YAMLError):
                continue
            source = name if _has(content, parts[len(named) :]) else ""
    if source:
        return source
    # The project's settings may pass their own defaults to load().
    is_default = read_value(get_config(), path) == read_value(WebSocketConfig(), path)
    return "default" if is_default else "settings"


def _has(content: object, parts: list[str]) -> bool:
    """Return True if nested mappings have a value at the end of some keys."""
    for part in parts:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _read_given() -> object:
    """Return the raw content of the file, or the dict in settings."""
    configured = getattr(settings, "WEBSOCKET", None)
    if isinstance(configured, Mapping):
        return configured
    try:
        text = Path(get_config().source).read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    # Nothing is taken from a file with other sections.
    is_taken = isinstance(document, Mapping) and set(document) == {"websocket"}
    return document["websocket"] if is_taken else None
