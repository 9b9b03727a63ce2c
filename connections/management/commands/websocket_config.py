import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from connections.config import describe, get_config
from connections.options import Documented


class Command(BaseCommand):
    help = "Show the configuration in force, and what each key takes."

    def add_arguments(self, parser: CommandParser) -> None:
        forms = parser.add_mutually_exclusive_group()
        forms.add_argument("--json", action="store_true", help="the values as JSON")
        forms.add_argument(
            "--table", action="store_true", help="keys and defaults as Markdown"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys = describe()
        if options["table"]:
            self.stdout.write(make_table(keys))
        elif options["json"]:
            values = {key.path: _read(key.path) for key in keys}
            self.stdout.write(json.dumps(values))
        else:
            self.stdout.write(f"# {get_config().source or 'defaults'}")
            for key in keys:
                self.stdout.write(f"{key.path}: {_read(key.path)}  # {key.about}")


def make_table(keys: list[Documented]) -> str:
    """Return the keys as README shows them."""
    rows = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{key.path}` | `{key.default}` | {key.allowed} | {key.about} |"
        for key in keys
    ]
    return "\n".join(rows)


def _read(path: str) -> Any:
    value: Any = get_config()
    for name in path.split("."):
        value = getattr(value, name)
    return list(value) if isinstance(value, tuple) else value
