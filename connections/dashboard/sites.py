"""
Find the admin sites that show the dashboard, their pages, and who may view them.

A project may have several sites, each with its own models and rules of access.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.contrib.admin.sites import AdminSite, all_sites
from django.core.handlers.asgi import ASGIRequest
from django.urls import (
    NoReverseMatch,
    get_script_prefix,
    resolve,
    reverse,
    set_script_prefix,
)

from connections.asgi import Message
from connections.models import LiveDashboard

logger = logging.getLogger(__name__)

_APPLICATION = "admin"
"""The namespace of the default site, or of the only one."""

_site: ContextVar[str] = ContextVar("connections_site", default=_APPLICATION)


@contextmanager
def linking_within(site: str) -> Iterator[None]:
    """Have make_page_url() return the pages of a site; empty: of the default one."""
    token = _site.set(site or _APPLICATION)
    try:
        yield
    finally:
        _site.reset(token)


@contextmanager
def linking_below(prefix: str) -> Iterator[None]:
    """Have URLs begin with the URL prefix of a proxy, in a thread without a request."""
    before = get_script_prefix()
    set_script_prefix(prefix)
    try:
        yield
    finally:
        set_script_prefix(before)


def make_page_url(page: str, *args: object) -> str:
    """Return the URL of a page of the site; empty if the site has no such page."""
    try:
        return reverse(f"{_site.get()}:{page}", args=args)
    except NoReverseMatch:
        return ""


def may_view(scope: Message, user: Any, session: Any, site: str) -> bool:
    """
    Return True if a user may view the dashboard on a site, or with "" on any.

    Each site decides as for its pages, with a request of the handshake's scope. A
    site that needs an attribute of its middleware denies.
    """
    request = ASGIRequest({**scope, "type": "http", "method": "GET"}, io.BytesIO())
    request.user, request.session = user, session
    return any(
        _decide(one, request)
        for one in list(all_sites)
        if site in ("", one.name) and _shows_dashboard(one)
    )


def _shows_dashboard(site: AdminSite) -> bool:
    if not site.is_registered(LiveDashboard):
        return False
    with linking_within(site.name):
        url = make_page_url("connections_livedashboard_changelist")
    # The namespace of the default site also stands for another one in its place.
    path = f"/{url.removeprefix(get_script_prefix())}"
    return bool(url) and resolve(path).namespace == site.name


def _decide(site: AdminSite, request: ASGIRequest) -> bool:
    try:
        admin = site.get_model_admin(LiveDashboard)
        return site.has_permission(request) and admin.has_view_permission(request)
    except AttributeError as exc:
        # For example user.is_verified of django-otp. The viewer's page polls instead.
        logger.info(
            "The admin site %s did not decide about a WebSocket of the dashboard: %r",
            site.name,
            exc,
            extra={"event": "dashboard_socket_undecided"},
        )
        return False
