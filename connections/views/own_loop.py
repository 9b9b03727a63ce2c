"""Views of a process that serves no sockets: each request has a loop of its own."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from connections.node.current import end_with_request, has_node, release_node

View = TypeVar("View", bound=Callable[..., Awaitable[Any]])


def release_own_node(view: View) -> View:
    """
    Let an async view leave no node behind under WSGI.

    Django runs it there on an event loop of its own for each request. The node of
    such a loop would keep its threads and database connections for good.
    """

    @wraps(view)
    async def run(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if isinstance(request, ASGIRequest) or has_node():
            return await view(request, *args, **kwargs)
        end_with_request()
        try:
            return await view(request, *args, **kwargs)
        finally:
            await release_node()

    return run  # type: ignore[return-value]
