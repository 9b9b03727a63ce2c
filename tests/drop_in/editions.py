"""
Load the sample on Channels' base classes or on this project's.

All that differs is one import: the names of channels.generic.websocket are
taken from connections.consumers instead, as the quickstart says.
"""

import ast
import functools
from importlib import import_module
from pathlib import Path
from types import ModuleType

EDITIONS = ("stock", "limited")

_TWINS = {
    "AsyncJsonWebsocketConsumer": "LimitedJsonConsumer",
    "AsyncWebsocketConsumer": "LimitedConsumer",
    "JsonWebsocketConsumer": "LimitedSyncJsonConsumer",
    "WebsocketConsumer": "LimitedSyncConsumer",
}


class _ChangeOfBase(ast.NodeTransformer):
    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.module != "channels.generic.websocket":
            return node
        names = [ast.alias(_TWINS[one.name], one.name) for one in node.names]
        changed = ast.ImportFrom("connections.consumers", names, 0)
        return ast.fix_missing_locations(ast.copy_location(changed, node))


@functools.cache
def load(name: str, edition: str) -> ModuleType:
    """Return a module of the sample in an edition."""
    stock = import_module(f"tests.drop_in.stock.{name}")
    if edition == "stock":
        return stock
    place = Path(str(stock.__file__))
    tree = _ChangeOfBase().visit(ast.parse(place.read_text(), place.name))
    limited = ModuleType(f"{stock.__name__}_limited")
    exec(compile(tree, place, "exec"), limited.__dict__)
    return limited
