"""Test that imports run one way, and that tests use public names alone."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.source

ROOT = Path(__file__).parent.parent

PACKAGES = ("connections", "sessions_history", "orchestra")
"""A package imports itself and those on its left."""

LAYERS = (
    # The ground: no Django models, no I/O.
    "units",
    "interning",
    "version",
    "asgi",
    "close_codes",
    "parts",
    "exceptions",
    "dependencies",
    "token_bucket",
    "error_log",
    "stderr_log",
    "background",
    "process_exit",
    "passes",
    "slices",
    "deadline",
    "bus",
    "deprecation",
    "net",
    # Configuration, storage, and what nodes share.
    "config",
    "privacy",
    "redaction",
    "limits",
    "telemetry",
    "models",
    "migrations",
    "audit",
    "personal_data",
    "storage",
    "redis",
    "postgres",
    "pool",
    "layers",
    "credentials",
    # The running node.
    "hub",
    "logs",
    "ends",
    "metrics",
    "signals",
    "announcements",
    "access",
    "actions",
    "alerts",
    "presence",
    "node",
    # One connection, and the server below it.
    "connection",
    "consumers",
    "middleware",
    "http_connection",
    "server",
    "workers",
    # For operators.
    "forecast",
    "dashboard",
    "routing",
    "sweeper",
    "capacity",
    "templatetags",
    "views",
    "admin",
    "urls",
    "api",
    "api_urls",
    "checks",
    "apps",
    "management",
    # For users.
    "client",
    "testing",
)
"""The packages and root modules of connections: one imports itself and those before."""

TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
"""Conditions under which nothing runs: such an import makes no module need another."""

COMPAT_ONLY = {
    "autobahn": "",
    "channels.consumer.get_handler_name": "connections/connection/compat.py",
    "channels_redis": "connections/layers/compat.py",
    "daphne": "connections/server/compat.py",
    "websockets.speedups": "connections/server/compat.py",
}
"""Foreign modules and names without documentation, and the one user of each."""

PRIVATE_ATTRIBUTES = {
    "_asyncioEventloop",
    "_command",
    "_dataBuffer",
    "_handlingRequest",
    "_networkProducer",
    "_respondToBadRequestAndDisconnect",
    "_response_started",
    "_sync",
    "_tempDataBuffer",
    "_tempDataLen",
    "dataBuffer",
    "server_class",
}
"""Private attributes of foreign classes, which only a compat.py may touch."""

DOCUMENTED = ("_meta", "_replace")
"""Attributes that Django and Python document, in spite of their underscore."""

OWNERS = ("self", "cls")

FOR_USERS = ("client", "testing")
"""Modules of connections that nothing here imports."""


def find_imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each import that can run, wherever it stands."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    package = path.relative_to(root).with_suffix("").parts[:-1]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ONLY:
            # This branch never runs; its `else` always does.
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"
        waiting += ast.iter_child_nodes(node)


def find_test_violations(root: Path) -> list[str]:
    """Return the private attributes and the test modules that tests use."""
    found = []
    for path in sorted((root / "tests").rglob("*.py")):
        place = path.relative_to(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and _is_private(node):
                found.append(f"{place}:{node.lineno}: {ast.unparse(node)}")
        for line, name in find_imports(path, root):
            package, *parts = name.split(".")
            if package == "tests" and any(one.startswith("test_") for one in parts):
                found.append(f"{place}:{line}: imports {name}")
    return found


def _is_private(node: ast.Attribute) -> bool:
    """Return True for a private attribute of another object."""
    if node.attr in DOCUMENTED or not node.attr.startswith("_"):
        return False
    is_own = isinstance(node.value, ast.Name) and node.value.id in OWNERS
    return not is_own and not node.attr.startswith("__")


def find_violations(root: Path) -> list[str]:
    """Return a line for each violation of the rules under a root."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            place = path.relative_to(root)
            layer = place.with_suffix("").parts[1]
            if package == "connections" and layer not in (*LAYERS, "__init__"):
                found.append(f"{place}: {layer} is in no layer; name it in LAYERS")
                continue
            for line, name in find_imports(path, root):
                problem = _judge(package, layer, name)
                if problem:
                    found.append(f"{place}:{line}: {problem}")
    return found


def _judge(package: str, layer: str, name: str) -> str | None:
    """Return the problem of an import, if it has one."""
    target, *rest = name.split(".")
    if target not in PACKAGES:
        return None
    if PACKAGES.index(target) > PACKAGES.index(package):
        return f"{package} imports {name}, of a later package"
    if target != "connections" or not rest:
        return None
    if rest[0] in FOR_USERS and (package, layer) != (target, rest[0]):
        return f"{name} is for users; nothing here imports it"
    if package != "connections" or rest[0] == layer:
        return None
    if rest[0] not in LAYERS:
        return f"imports {name}, which is in no layer; name it in LAYERS"
    if layer == "__init__" or LAYERS.index(rest[0]) > LAYERS.index(layer):
        return f"{layer} imports {name}, of a later layer"
    return None


def find_circles(root: Path) -> list[list[str]]:
    """Return the modules that import each other, directly or through others."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    imported = {
        module: {
            target
            for _, name in find_imports(path, root)
            for target in (name, name.rpartition(".")[0])
            if target in modules and target != module
        }
        for module, path in modules.items()
    }
    order = TopologicalSorter(imported)
    try:
        order.prepare()
    except CycleError as exc:
        return [exc.args[1]]
    return []


def find_private_uses(root: Path) -> list[str]:
    """Return the uses of private foreign names outside a compat.py."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            place = path.relative_to(root)
            for line, name in find_imports(path, root):
                if is_private_import(str(place), name):
                    found.append(f"{place}:{line}: {name}")
            if path.name == "compat.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = {getattr(node, "attr", ""), getattr(node, "name", "")}
                for name in sorted(names & PRIVATE_ATTRIBUTES):
                    found.append(f"{place}:{getattr(node, 'lineno', 0)}: {name}")
    return found


def is_private_import(place: str, name: str) -> bool:
    if name.split(".")[0] in (*PACKAGES, "__future__"):
        return False
    for foreign, user in COMPAT_ONLY.items():
        if name == foreign or name.startswith(f"{foreign}."):
            return place != user
    return any(part.startswith("_") for part in name.split("."))


def plant(root: Path, place: str, source: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def test_imports_run_one_way() -> None:
    assert find_violations(ROOT) == []


def test_no_module_imports_itself_by_a_circle() -> None:
    assert find_circles(ROOT) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    """Imports within functions count: they only hide a circle."""
    plant(tmp_path, "connections/hub/hub.py", "import connections.hub.connection\n")
    source = "def f():\n    from connections.hub.hub import Hub\n"
    plant(tmp_path, "connections/hub/connection.py", source)
    ((*circle, last),) = find_circles(tmp_path)
    assert set(circle) == {"connections.hub.hub", "connections.hub.connection"}
    assert last == circle[0]


def test_private_names_of_other_packages_are_used_in_compat_alone() -> None:
    assert find_private_uses(ROOT) == []


def test_a_planted_private_use_is_found(tmp_path: Path) -> None:
    """Imports and attributes count, and definitions that override an attribute."""
    plant(
        tmp_path,
        "connections/server/http.py",
        "from daphne.utils import parse_x_forwarded_for\n"
        "from twisted.web._newclient import makeStatefulDispatcher\n"
        "transport.dataBuffer\n"
        "class A:\n    def _respondToBadRequestAndDisconnect(self): ...\n",
    )
    plant(tmp_path, "connections/server/compat.py", "import daphne.utils\nx._sync\n")
    plant(tmp_path, "connections/layers/compat.py", "import daphne.utils\n")
    assert find_private_uses(tmp_path) == [
        "connections/layers/compat.py:1: daphne.utils",
        "connections/server/http.py:2: twisted.web._newclient.makeStatefulDispatcher",
        "connections/server/http.py:1: daphne.utils.parse_x_forwarded_for",
        "connections/server/http.py:3: dataBuffer",
        "connections/server/http.py:5: _respondToBadRequestAndDisconnect",
    ]


def test_every_package_is_looked_at() -> None:
    """A renamed package would otherwise pass unchecked."""
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)


def test_a_planted_import_of_a_later_layer_is_found(tmp_path: Path) -> None:
    """Imports count wherever they stand, and however they are written."""
    source = "def f():\n    import connections.node.node\n"
    plant(tmp_path, "connections/units.py", source)
    plant(tmp_path, "connections/net/origins.py", "from connections import config\n")
    plant(tmp_path, "connections/pool/base.py", "from ..hub import Hub\n")
    plant(tmp_path, "connections/node/node.py", "from connections.hub import Hub\n")
    assert find_violations(tmp_path) == [
        "connections/net/origins.py:1: net imports connections.config, "
        "of a later layer",
        "connections/pool/base.py:1: pool imports connections.hub.Hub, of a later "
        "layer",
        "connections/units.py:2: units imports connections.node.node, of a later layer",
    ]


def test_a_planted_import_of_a_later_package_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "connections/apps.py", "import sessions_history.models\n")
    plant(tmp_path, "sessions_history/apps.py", "from orchestra import settings\n")
    plant(
        tmp_path,
        "orchestra/asgi.py",
        "import connections.node.node, sessions_history\n",
    )
    assert [line.split(":")[0] for line in find_violations(tmp_path)] == [
        "connections/apps.py",
        "sessions_history/apps.py",
    ]


def test_an_import_for_type_checkers_alone_is_exempt(tmp_path: Path) -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from connections.node.node import Node\n"
        "else:\n    from connections.hub.hub import Hub\n"
    )
    plant(tmp_path, "connections/units.py", source)
    (found,) = find_violations(tmp_path)
    assert "connections.hub.hub" in found


def test_an_import_for_all_but_type_checkers_counts(tmp_path: Path) -> None:
    source = "if not TYPE_CHECKING:\n    from connections.hub.hub import Hub\n"
    plant(tmp_path, "connections/units.py", source)
    assert len(find_violations(tmp_path)) == 1


def test_a_module_without_a_layer_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "connections/gadgets.py", "")
    plant(tmp_path, "connections/node/node.py", "from connections.gadgets import x\n")
    first, second = find_violations(tmp_path)
    assert first.endswith("gadgets is in no layer; name it in LAYERS")
    assert "connections/node/node.py:1" in second


def test_what_is_for_users_imports_nothing_private() -> None:
    """These tools can do what a user's tests can do, and no more."""
    private = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in FOR_USERS
        for path in sorted((ROOT / "connections" / package).rglob("*.py"))
        for line, name in find_imports(path, ROOT)
        if any(part.startswith("_") for part in name.split("."))
    ]
    assert private == []


def test_the_application_needs_no_pytest() -> None:
    """pytest is an extra, which only the plugin imports."""
    found = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for _, name in find_imports(path, ROOT)
        if name.split(".")[0].startswith(("pytest", "_pytest"))
    ]
    assert found == ["connections/testing/plugin.py"]


def test_nothing_imports_what_is_for_users(tmp_path: Path) -> None:
    plant(tmp_path, "orchestra/asgi.py", "from connections.client import connect\n")
    plant(tmp_path, "connections/management/x.py", "import connections.testing\n")
    assert len(find_violations(tmp_path)) == 2


def test_tests_use_no_private_attribute_and_no_other_test() -> None:
    assert find_test_violations(ROOT) == []


def test_a_planted_private_attribute_or_import_of_a_test_is_found(
    tmp_path: Path,
) -> None:
    plant(tmp_path, "tests/test_a.py", "self._mine = other._theirs\n")
    plant(tmp_path, "tests/a/test_b.py", "from tests.test_a import x\n")
    assert find_test_violations(tmp_path) == [
        "tests/a/test_b.py:1: imports tests.test_a.x",
        "tests/test_a.py:1: other._theirs",
    ]
