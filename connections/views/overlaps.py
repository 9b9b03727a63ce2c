"""Find views of a project that share a path with the views of connections.urls."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

View = Callable[..., Any]


class Overlap(NamedTuple):
    """A path that two URL patterns match: Django calls the view of the first."""

    path: str
    answering: View
    hidden: View
    is_ours: bool
    """True if the view that answers is one of connections.urls."""


def find_overlaps(patterns: Iterable[URLPattern]) -> list[Overlap]:
    """Return the paths of these patterns that a view of the project matches too."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    ours = {pattern.callback for pattern in patterns}
    root = get_resolver()
    found = []
    plain = list(_walk(root, ""))
    for path, view in sorted(plain, key=lambda one: one[0]):
        if view not in ours:
            continue
        matching = list(_match(root, f"/{path}"))
        before = matching[: matching.index(view)] if view in matching else []
        # A pattern for any path behind ours, as of a frontend, hides nothing.
        hidden = [one for where, one in plain if where == path and one not in ours]
        if before:
            found.append(Overlap(f"/{path}", before[0], view, is_ours=False))
        elif hidden:
            found.append(Overlap(f"/{path}", view, hidden[0], is_ours=True))
    return found


def name_view(view: View) -> str:
    """Return the dotted path of a view."""
    view = getattr(view, "view_class", view)
    name = getattr(view, "__qualname__", type(view).__qualname__)
    return f"{view.__module__}.{name}"


def _walk(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, View]]:
    """Yield the plain paths below a resolver with their views."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern.pattern, RoutePattern) and not pattern.pattern.converters:
            path = f"{prefix}{pattern.pattern}"
            if isinstance(pattern, URLResolver):
                yield from _walk(pattern, path)
            else:
                yield path, pattern.callback


def _match(pattern: URLPattern | URLResolver, path: str) -> Iterator[View]:
    """Yield the views that match a path, in the order of the patterns."""
    found = pattern.pattern.match(path)
    if not found:
        return
    if isinstance(pattern, URLPattern):
        yield pattern.callback
        return
    for inner in pattern.url_patterns:
        yield from _match(inner, found[0])
