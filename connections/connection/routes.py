"""Find the consumers that an ASGI application routes to, through any middleware."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from channels.routing import URLRouter
from django.conf import settings
from django.urls import Resolver404, URLPattern

from connections.asgi import Message
from connections.metrics.counters import declare_route

_DEPTH = 30
"""How many applications within each other are followed."""


@dataclass(frozen=True, slots=True)
class ConsumerRoute:
    """A consumer class and the URL patterns that lead to it, outermost first."""

    consumer_class: Any
    patterns: tuple[Any, ...] = ()
    is_protected: bool = False
    """Whether NodeMiddleware, and so protect(), is on the way."""

    @property
    def name(self) -> str:
        """The innermost pattern, by which routes are counted."""
        return str(self.patterns[-1]) if self.patterns else ""

    def matches(self, path: str) -> bool:
        """Return True if the patterns lead from a path to the consumer."""
        rest = path.lstrip("/")
        for pattern in self.patterns:
            try:
                match = pattern.match(rest)
            except Resolver404:
                return False
            if not match:
                return False
            rest = match[0]
        return True


def find_routes(application: Any) -> Iterator[ConsumerRoute]:
    """
    Yield the routes of an ASGI application.

    Middleware keeps what it wraps in an attribute of any name, or in a closure.
    """
    yield from _find(application, (), False, set(), _DEPTH)


def _find(
    application: Any,
    patterns: tuple[Any, ...],
    is_protected: bool,
    seen: Any,
    depth: int,
) -> Iterator[ConsumerRoute]:
    key = (id(application), patterns)
    if key in seen or not depth:
        return
    seen.add(key)
    consumer_class = getattr(application, "consumer_class", None)
    if isinstance(consumer_class, type):
        is_protected |= bool(getattr(consumer_class, "gives_node", False))
        yield ConsumerRoute(consumer_class, patterns, is_protected)
        return
    is_protected |= bool(getattr(application, "gives_node", False))
    for one in _list_parts(application):
        if isinstance(one, URLPattern):
            longer = (*patterns, one.pattern)
            yield from _find(one.callback, longer, is_protected, seen, depth - 1)
        elif callable(one) and not isinstance(one, type):
            yield from _find(one, patterns, is_protected, seen, depth - 1)


def _list_parts(application: Any) -> Iterator[Any]:
    """Yield what an application refers to: attributes, closures, and their items."""
    held = list(getattr(application, "__dict__", {}).values())
    for kind in type(application).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        held += [getattr(application, name, None) for name in names]
    for cell in getattr(application, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:
            continue  # The variable of this cell has no value yet.
    bound = getattr(application, "__self__", None)
    if bound is not None:
        held.append(bound)
    for one in held:
        if isinstance(one, dict):
            yield from one.values()
        elif isinstance(one, list | tuple):
            yield from one
        else:
            yield one


def get_application_path() -> str:
    """Return the dotted path of the project's ASGI application."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    package = (settings.SETTINGS_MODULE or "").rpartition(".")[0]
    return path or f"{package}.asgi.application"


def find_route(consumer_class: type, scope: Message) -> str:
    """
    Return the pattern by which the served application leads to a consumer.

    ASGI_APPLICATION names it, unless the server was started with another one. The
    routes of all consumers with limits that are found on the way are declared.
    """
    path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
    seen = _seen.get(consumer_class, ())
    name = _name_route(seen, consumer_class, path)
    if name is None and "url_route" in scope and (router := _find_calling_router()):
        routes = _search(router, consumer_class)
        _seen[consumer_class] = (*seen, *(one for one in routes if one not in seen))
        name = _name_route(routes, consumer_class, path)
    if name is None:
        name = _name_route(_find_configured(), consumer_class, path)
    return name or ""


def _search(router: URLRouter, consumer_class: type) -> Sequence[ConsumerRoute]:
    """Return the routes from a router to a consumer, at the first call alone."""
    searched = _searched.setdefault(consumer_class, WeakSet())
    if router in searched:
        return ()
    searched.add(router)
    routes = _declare(find_routes(router))
    return [one for one in routes if one.consumer_class is consumer_class]


def is_limited(consumer_class: type) -> bool:
    """Return True for a consumer that has limits."""
    return hasattr(consumer_class, "get_client_id")


def _declare(routes: Iterator[ConsumerRoute]) -> tuple[ConsumerRoute, ...]:
    """Declare the routes of consumers with limits; return all."""
    found = tuple(routes)
    for one in found:
        if one.name and is_limited(one.consumer_class):
            declare_route(one.name)
    return found


def _name_route(
    served: Sequence[ConsumerRoute], consumer_class: type, path: str
) -> str | None:
    """Return the name of the route to a consumer, or None."""
    routes = [one for one in served if one.consumer_class is consumer_class]
    if len(routes) > 1:
        routes = [one for one in routes if one.matches(path)]
    return routes[0].name if routes else None


def _find_calling_router() -> URLRouter | None:
    """Return the outermost URLRouter that this call comes from; it keeps no name."""
    found = None
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_qualname == _ROUTER_CALL:
            router = frame.f_locals.get("self")
            found = router if isinstance(router, URLRouter) else found
        frame = frame.f_back
    return found


def _find_configured() -> Sequence[ConsumerRoute]:
    """Return the routes of the application that ASGI_APPLICATION names, if loaded."""
    module, _, name = get_application_path().rpartition(".")
    application = getattr(sys.modules.get(module), name, None)
    if application is None:
        return ()
    known, served = _configured.get(id(application), (None, ()))
    if known is not application:
        served = _declare(find_routes(application))
        _configured[id(application)] = application, served
    return served


_ROUTER_CALL = "URLRouter.__call__"

_seen: WeakKeyDictionary[type, tuple[ConsumerRoute, ...]] = WeakKeyDictionary()
"""The routes to a consumer from the routers that have led to it."""

_searched: WeakKeyDictionary[type, WeakSet[URLRouter]] = WeakKeyDictionary()
"""These routers: find_routes() does not see every consumer, as one in a method."""

_configured: dict[int, tuple[Any, tuple[ConsumerRoute, ...]]] = {}
"""Applications by id, as one may have no hash and take no weak reference."""
