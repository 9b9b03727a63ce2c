"""Find the users, persons and nodes that operators name."""

import re
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser

from connections.exceptions import UserAmbiguous, UserNotFound
from connections.models import Connection, Node, user_key
from connections.personal_data.person import Person, find_client, find_user_person

_SHOWN = 5


def find_user(name: str) -> Any:
    """
    Return the user with a key or a login name.

    Raises:
        CommandError: no such user exists, or more than one.
    """
    try:
        return user_key.find_user(name)
    except (UserNotFound, UserAmbiguous) as exc:
        raise CommandError(str(exc)) from exc


def find_by_login_name(name: str) -> Any:
    """
    Return the user with a login name, for what nothing can undo.

    The user who is meant may be gone, and the text the key of somebody else.

    Raises:
        CommandError: no such user exists.
    """
    try:
        return user_key.find_by_login_name(name)
    except get_user_model().DoesNotExist as exc:
        raise CommandError(f"there is no user with the login name {name!r}") from exc


def add_person(parser: CommandParser) -> None:
    """Add the options that name a person, one of which is required."""
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument("--user", metavar="NAME", help="this user, by login name")
    names.add_argument("--client", metavar="ID", help="this client, by its id")


def find_person(options: dict[str, Any]) -> Person:
    """
    Return the person that the options name.

    Raises:
        CommandError: no such user exists.
    """
    if options["user"] is not None:
        return find_user_person(find_by_login_name(options["user"]))
    return find_client(options["client"])


def find_node_id(text: str) -> str:
    """
    Return the id of the node that a text names: its id, the first characters of it
    as in a log line, or all that a list shows, as in web-1:4711 (a1b2c3d4).

    Raises:
        CommandError: no node, or more than one, has this name.
    """
    shown = re.fullmatch(r".*\((\w+)\)", text)
    prefix = shown[1] if shown else text
    nodes = Node.objects.filter(node_id__startswith=prefix) if prefix else ()
    found = list(nodes[: _SHOWN + 1])
    if len(found) == 1:
        return found[0].node_id
    if found:
        raise CommandError(f"{text!r} stands for more than one node: {_name(found)}")
    if Connection.objects.filter(node_id=prefix).exists():
        return prefix  # Connections outlive the rows of deleted nodes.
    live = list(Node.objects.live().order_by("-started_at")[: _SHOWN + 1])
    known = f"serving now: {_name(live)}" if live else "no node is serving"
    raise CommandError(f"there is no node {text!r}; {known}")


def _name(nodes: list[Node]) -> str:
    names = [str(node) for node in nodes[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(nodes) > _SHOWN else "")
