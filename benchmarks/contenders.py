"""Servers to compare: how each is started, and how a client talks to it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.processes import ROOT, ServerProcess
from benchmarks.site import Site
from connections.capacity.load.procfs import free_port

SERVED = Path(__file__).parent / "served"

_IN_MEMORY = "channels.layers.InMemoryChannelLayer"
_LOCAL = "connections.layers.local.LocalLayer"

_RAISED = {
    "MAX_TOTAL_CONNECTIONS": "12000",
    "RATE_LIMIT__MESSAGES_PER_SECOND": "1000000",
    "RATE_LIMIT__BURST_MESSAGES": "1000000",
    "RATE_LIMIT__BYTES_PER_SECOND": "1GB",
    "RATE_LIMIT__BURST_BYTES": "1GB",
    # Idle connections of the measures send nothing.
    "IDLE_TIMEOUT_SECONDS": "3600",
}
"""Limits raised for the load; all others have their defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One server with its name."""

    name: str
    command: Callable[[int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    dialect: str = "plain"
    path: str = "/ws/echo/"
    group_path: str = "/ws/broadcast/"
    """Where a message goes to all clients of the path."""
    credentials: str = ""
    """Credentials of its clients: none (""), "tokens" or "sessions" of the site."""
    workers: int = 1
    """How many processes serve its port."""
    drains: bool = False
    """Whether SIGTERM starts a drain."""
    missing: Callable[[], str] = lambda: ""
    """Returns the reason why it cannot run here, or ""."""

    def start(self, site: Site, **environment: str) -> ServerProcess:
        """Return its process as a context manager, with additional variables."""
        port = free_port()
        return ServerProcess(
            self.command(port),
            port=port,
            log=site.folder / f"{self.name}.log",
            environment={**site.environment, **self.environment, **environment},
        )

    def get_headers(self, site: Site) -> list[str]:
        """Return header lines that clients use in rotation."""
        if self.credentials == "tokens":
            return [f"Authorization: Bearer {one}\r\n" for one in site.tokens]
        if self.credentials == "sessions":
            return [f"Cookie: sessionid={one}\r\n" for one in site.sessions]
        return []


def _python(module: str, *arguments: str) -> Callable[[int], list[str]]:
    return lambda port: [
        sys.executable,
        "-m",
        module,
        *(argument.format(port=port) for argument in arguments),
    ]


# With the default of 5 s a busy machine does not reach 5,000 connections.
_DAPHNE = ("-p", "{port}", "--websocket_connect_timeout", "60")
_UVICORN = ("--port", "{port}", "--log-level", "warning", "--ws", "websockets-sansio")


def _limited(**environment: str) -> dict[str, str]:
    raised = {f"WEBSOCKET__{key}": value for key, value in _RAISED.items()}
    served = {"BENCHMARKS_SERVED": "limited", "BENCHMARKS_LAYER": _LOCAL}
    return {**raised, **served, **environment}


_BARE = {"BENCHMARKS_SERVED": "bare", "BENCHMARKS_LAYER": _IN_MEMORY}
_BARE_MODULE, _LIMITED_MODULE = (
    f"benchmarks.served.{name}:application" for name in ("bare", "limited")
)


def _node_modules() -> Path:
    return Path(os.environ.get("BENCHMARKS_NODE") or ROOT / "var" / "benchmarks")


def _node(name: str) -> Callable[[int], list[str]]:
    return lambda port: ["node", str(SERVED / "node" / f"{name}.js"), str(port)]


def _is_node_missing() -> str:
    """Install ws and socket.io if Node.js is there; return a problem or ""."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node is not installed"
    folder = _node_modules()
    if (folder / "node_modules" / "socket.io").is_dir():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder)]
    done = subprocess.run(
        [*command, "ws@8", "socket.io@4"], capture_output=True, text=True, check=False
    )
    return f"npm: {done.stderr.strip()[-200:]}" if done.returncode else ""


def _is_redis_missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed"


def _is_socketio_missing() -> str:
    found = subprocess.run(
        [sys.executable, "-c", "import socketio"], capture_output=True, check=False
    )
    return "pip install python-socketio" if found.returncode else ""


_NODE_PATH = {"NODE_PATH": str(_node_modules() / "node_modules")}

REFERENCE = "channels-daphne"
REFERENCES = {"orchestra-uvicorn": "channels-uvicorn"}
"""Bare Channels on the server of a contender, beside the reference of all."""

WORKERS = 2

_CONTENDERS = (
    Contender(
        name=REFERENCE,
        command=_python("daphne", *_DAPHNE, _BARE_MODULE),
        environment=_BARE,
    ),
    Contender(
        name="orchestra-serve",
        command=lambda port: [
            *(sys.executable, "manage.py", "serve", "--port", str(port)),
        ],
        environment=_limited(),
        credentials="tokens",
        drains=True,
    ),
    Contender(
        name="channels-uvicorn",
        command=_python("uvicorn", *_UVICORN, _BARE_MODULE),
        environment=_BARE,
    ),
    Contender(
        name="orchestra-uvicorn",
        command=_python("uvicorn", *_UVICORN, _LIMITED_MODULE),
        environment=_limited(),
        credentials="tokens",
    ),
    Contender(
        name="channels-auth",
        command=_python("daphne", *_DAPHNE, _BARE_MODULE),
        environment=_BARE,
        path="/ws/auth/",
        credentials="sessions",
    ),
    Contender(
        name="python-socketio",
        command=_python(
            "uvicorn", *_UVICORN, "benchmarks.served.socket_io:application"
        ),
        dialect="socket_io",
        path="",
        group_path="",
        missing=_is_socketio_missing,
    ),
    Contender(
        name="node-socket.io",
        command=_node("socket_io"),
        environment=_NODE_PATH,
        dialect="socket_io",
        path="",
        group_path="",
        missing=_is_node_missing,
    ),
    Contender(
        name="node-ws",
        command=_node("ws"),
        environment=_NODE_PATH,
        missing=_is_node_missing,
    ),
)

CONTENDERS = {contender.name: contender for contender in _CONTENDERS}
CONTENDERS |= {
    f"{name}-direct": replace(
        CONTENDERS[name], name=f"{name}-direct", group_path="/ws/direct/"
    )
    for name in ("orchestra-serve", "orchestra-uvicorn")
}
CONTENDERS |= {
    "orchestra-workers": replace(
        CONTENDERS["orchestra-serve"],
        name="orchestra-workers",
        command=lambda port: [
            *(sys.executable, "manage.py", "serve", "--port", str(port)),
            *("--workers", str(WORKERS)),
        ],
        workers=WORKERS,
    ),
    "orchestra-nodes": replace(
        CONTENDERS["orchestra-serve-direct"],
        name="orchestra-nodes",
        missing=_is_redis_missing,
    ),
}
"""The servers by name; those called direct send one message to all with broadcast()."""
