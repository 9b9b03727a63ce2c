"""Read the settings of an ASGI server that is not ours, and compare them with ours."""

import asyncio
import inspect
import logging
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from connections.access.source_log import NO_ADDRESS
from connections.config.loader import WebSocketConfig

logger = logging.getLogger(__name__)

_PROXY_TIMEOUT_SECONDS = 60
"""Default of nginx's proxy_read_timeout, after which it closes silent connections."""

_STOPS = {
    "hypercorn": "at SIGTERM it stops without drain.*, and the records are written",
    "granian": "at SIGTERM it stops without drain.*, and the records are written with "
    "protect() alone",
}
_DRAINS = "at SIGTERM the node drains before it stops"

_OPTIONS = {
    "uvicorn": ("--ws-ping-interval", "--ws-ping-timeout", "--ws-per-message-deflate"),
    "daphne": ("--ping-interval", "--ping-timeout", ""),
    "hypercorn": ("--websocket-ping-interval", "", ""),
}
"""The options of interval, timeout and compression; without one it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of another server that take the place of ours."""

    name: str
    ping_interval_seconds: float | None = None
    """None: it sends no pings."""

    ping_timeout_seconds: float | None = None
    """None: it waits for no pong."""

    compresses: bool = False
    kills_after_seconds: float | None = None
    """How long gunicorn waits for a worker that stops; None: without an end."""

    has_unix_socket: bool = False

    def describe(self) -> str:
        """Return the settings in force as text for the log."""
        interval, timeout = self.ping_interval_seconds, self.ping_timeout_seconds
        pings = "no pings"
        if interval is not None:
            waits = "no time-out" if timeout is None else f"a time-out of {timeout:g} s"
            pings = f"pings every {interval:g} s with {waits}"
        compression = "when a client offers it" if self.compresses else "never"
        stop = _STOPS.get(self.name, _DRAINS)
        return f"It sends {pings}; it compresses {compression}; {stop}."

    def find_differences(self, config: WebSocketConfig) -> Iterator[str]:
        """Yield what these settings cost, compared with the configuration."""
        interval_option, timeout_option, deflate_option = _OPTIONS.get(
            self.name, ("", "", "")
        )
        needed = config.ping_interval_seconds + config.ping_timeout_seconds
        interval, timeout = self.ping_interval_seconds, self.ping_timeout_seconds
        if interval is None or timeout is None:
            lack = "sends no pings" if interval is None else "waits for no pong"
            option = interval_option if interval is None else timeout_option
            yield (
                f"{self.name} {lack}: a client that vanished holds its slot"
                f" {_describe_idle(config)}, and not for {needed:g} s at most"
                f"{_name_option(option)}."
            )
        elif interval + timeout > needed:
            yield (
                f"{self.name} finds a client that vanished after up to"
                f" {interval + timeout:g} s; ping_interval_seconds and"
                f" ping_timeout_seconds ask for {needed:g} s"
                f"{_name_option(interval_option)}."
            )
        if interval is not None and interval >= _PROXY_TIMEOUT_SECONDS:
            yield (
                f"{self.name} pings every {interval:g} s; proxies close connections"
                f" that are silent for {_PROXY_TIMEOUT_SECONDS} s"
                f"{_name_option(interval_option)}."
            )
        if self.compresses:
            yield (
                f"{self.name} compresses whatever compression.* says: messages with"
                " tokens too, and each connection holds windows in memory"
                f"{_name_option(deflate_option)}."
            )
        elif config.compression.enabled and not self.compresses:
            yield (
                f"{self.name} does not compress, though compression.enabled is true"
                f"{_name_option(deflate_option)}."
            )
        if self.has_unix_socket and not config.trusted_proxies:
            yield NO_ADDRESS
        drain = config.drain.delay_seconds + config.drain.grace_seconds
        if self.kills_after_seconds is not None and self.kills_after_seconds <= drain:
            yield (
                f"gunicorn kills a worker {self.kills_after_seconds:g} s after its stop"
                f" began, and a drain may take {drain:g} s: the last clients get no"
                " close frame (--graceful-timeout)."
            )


def _describe_idle(config: WebSocketConfig) -> str:
    seconds = config.idle_timeout_seconds
    return f"until idle_timeout_seconds ({seconds:g} s)" if seconds else "without end"


def _name_option(option: str) -> str:
    return f" ({option})" if option else ""


def report_other_server(config: WebSocketConfig) -> None:
    """Log once at the start of a node what does not hold under another server."""
    found = find_other_server()
    if found is None:
        return
    logger.warning(
        "Under %s these are not enforced: the bounds on unread and unsent bytes, "
        "handshake deadlines and limits per address, ping_*, compression.*, and "
        "dropping the socket of a slow client. manage.py serve, or daphne with "
        "protect(), does. %s",
        found.name,
        found.describe(),
        extra={"event": "foreign_server"},
    )
    for difference in found.find_differences(config):
        logger.warning("%s", difference, extra={"event": "server_settings"})


def find_other_server() -> ServerSettings | None:
    """
    Return the settings of the server that runs this thread; None without another.

    No ASGI scope holds them. The functions of the server that are under way do, in
    their variables: on the stack, or in the tasks of its event loop.
    """
    uvicorn = _find_class("uvicorn.config", "Config")
    hypercorn = _find_class("hypercorn.config", "Config")
    daphne = _find_class("daphne.server", "Server")
    gunicorn = _find_class("gunicorn.workers.base", "Worker")
    found: ServerSettings | None = None
    graceful_seconds: float | None = None
    binds: list[str] = []
    for one in _list_objects():
        if gunicorn and isinstance(one, gunicorn):
            graceful_seconds = float(one.cfg.graceful_timeout)
            binds += one.cfg.bind
        if found is not None:
            continue
        config = getattr(one, "__dict__", {}).get("config", one)
        if uvicorn and isinstance(config, uvicorn):
            found = _read_uvicorn(config)
        elif hypercorn and isinstance(config, hypercorn):
            interval = config.websocket_ping_interval
            found = ServerSettings(
                name="hypercorn", ping_interval_seconds=interval, compresses=True
            )
            binds += config.bind
        elif daphne and isinstance(one, daphne):
            found = ServerSettings(
                name="daphne",
                ping_interval_seconds=one.ping_interval,
                ping_timeout_seconds=one.ping_timeout or None,
            )
            binds += map(str, one.endpoints)
    if found is None and "granian.server" in sys.modules:
        found = ServerSettings(name="granian")
    if found is None:
        return None
    return replace(
        found,
        kills_after_seconds=graceful_seconds,
        has_unix_socket=found.has_unix_socket or _name_unix_socket(binds),
    )


def _name_unix_socket(binds: Iterable[str]) -> bool:
    """Return True if one of the addresses of a server is a Unix socket."""
    return any(one.startswith("unix:") for one in binds)


def _read_uvicorn(config: Any) -> ServerSettings:
    return ServerSettings(
        name="uvicorn",
        ping_interval_seconds=config.ws_ping_interval or None,
        ping_timeout_seconds=config.ws_ping_timeout or None,
        compresses=bool(config.ws_per_message_deflate),
        has_unix_socket=bool(config.uds),
    )


def read_environment(environment: Mapping[str, str]) -> ServerSettings | None:
    """
    Return what variables say about a server that this process does not run.

    uvicorn's command line reads each option from a variable, and gunicorn its own
    options from one. Their other sources are unknown here.
    """
    uvicorn = {
        name.removeprefix("UVICORN_WS_"): value
        for name, value in environment.items()
        if name.startswith("UVICORN_WS_")
    }
    arguments = shlex.split(environment.get("GUNICORN_CMD_ARGS", ""))
    graceful = _find_option(arguments, "--graceful-timeout")
    binds = [_find_option(arguments, name) or "" for name in ("-b", "--bind")]
    has_unix_socket = "UVICORN_UDS" in environment or _name_unix_socket(binds)
    try:
        graceful_seconds = None if graceful is None else float(graceful)
        if not uvicorn and graceful_seconds is None and not has_unix_socket:
            return None
        return ServerSettings(
            name="uvicorn",
            ping_interval_seconds=float(uvicorn.get("PING_INTERVAL", 20)) or None,
            ping_timeout_seconds=float(uvicorn.get("PING_TIMEOUT", 20)) or None,
            compresses=uvicorn.get("PER_MESSAGE_DEFLATE", "true").lower() in _TRUE,
            kills_after_seconds=graceful_seconds,
            has_unix_socket=has_unix_socket,
        )
    except ValueError:
        return None  # The server does not start with such a value, and says so.


_TRUE = ("1", "true", "t", "yes", "y", "on")
"""What click takes for true."""


def _find_option(arguments: list[str], name: str) -> str | None:
    for index, one in enumerate(arguments):
        if one.startswith(f"{name}="):
            return one.partition("=")[2]
        if one == name and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _find_class(module: str, name: str) -> Any:
    """Return a class of a module that is loaded already, or None."""
    return getattr(sys.modules.get(module), name, None)


def _list_objects() -> Iterator[Any]:
    """Yield the objects that functions under way in this thread belong to."""
    for frame in _list_frames():
        for name in ("self", "config"):
            if (found := frame.f_locals.get(name)) is not None:
                yield found


def _list_frames() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        while waiting is not None:
            if (frame := getattr(waiting, "cr_frame", None)) is not None:
                yield frame
            waiting = getattr(waiting, "cr_await", None)
