"""
Limit wrong passwords by user and address, and by address.

A limit by user alone would let anybody lock a user out.
"""

import logging
import unicodedata
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers
from django.utils.crypto import salted_hmac

from connections.config.loader import get_config
from connections.models.sweep import delete_some
from connections.net.addresses import UNIX, group_address
from connections.privacy import digest_address, show_address
from connections.views.source import find_request_source
from orchestra.models import FailedSignIn

logger = logging.getLogger(__name__)

LOCK_SECONDS = 900
MAX_PER_USER = 5
"""Wrong passwords of one user from one address within LOCK_SECONDS."""

MAX_PER_ADDRESS = 30
"""Wrong passwords from one address (IPv6: one /64) within LOCK_SECONDS."""

_PRUNED_AT_ONCE = 200

View = Callable[..., Any]


def limit_sign_ins(view: View) -> View:
    """Return a view that answers 429 after too many wrong passwords."""

    @wraps(view)
    def limited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        source = find_request_source(request, get_config().trusted_proxies)
        address = group_address(source.address)[:64] or UNIX
        # The attempt counts from here on, so that concurrent ones see each other.
        attempt = FailedSignIn.objects.create(
            address=digest_address(address),
            user_digest=digest_username(request.POST.get("username", "")),
        )
        count, count_of_address = _count(attempt)
        if count > MAX_PER_USER or count_of_address > MAX_PER_ADDRESS:
            attempt.delete()
            return _refuse(request)
        response = view(request, *args, **kwargs)
        if response.status_code != 302:
            _log_failure(address, count, count_of_address)
        elif digest_username(request.user.get_username()) == attempt.user_digest:
            _find_same(attempt).delete()
        else:
            # The sign-in page redirects a user that is signed in, unverified.
            attempt.delete()
        return response

    return limited


def digest_username(username: str) -> str:
    """Return the digest that stands for a user name, however it is written."""
    # The form of Django strips and normalises it (UsernameField).
    name = unicodedata.normalize("NFKC", username.strip()).casefold()
    return salted_hmac(__name__, name, algorithm="sha256").hexdigest()


def _find_same(attempt: FailedSignIn) -> Any:
    return FailedSignIn.objects.filter(
        address=attempt.address, user_digest=attempt.user_digest
    )


def _count(attempt: FailedSignIn) -> tuple[int, int]:
    """Return the recent failures of the user and address, and of the address."""
    delete_some(FailedSignIn.objects.older_than(LOCK_SECONDS), _PRUNED_AT_ONCE)
    recent = FailedSignIn.objects.recent(LOCK_SECONDS)
    own = Q(user_digest=attempt.user_digest)
    of_address = recent.filter(address=attempt.address)
    return of_address.filter(own).count(), of_address.count()


def _refuse(request: HttpRequest) -> HttpResponseBase:
    context = {"minutes": LOCK_SECONDS // 60}
    response = render(request, "orchestra/too_many.html", context, status=429)
    add_never_cache_headers(response)
    response["Retry-After"] = str(LOCK_SECONDS)
    return response


def _log_failure(address: str, count: int, count_of_address: int) -> None:
    address = show_address(address)
    logger.info("A sign-in from %s failed", address, extra={"event": "sign_in_failed"})
    if count == MAX_PER_USER or count_of_address == MAX_PER_ADDRESS:
        logger.warning(
            "Sign-ins of %s from %s are refused for %s minutes: too many wrong "
            "passwords",
            "all users" if count_of_address == MAX_PER_ADDRESS else "one user",
            address,
            LOCK_SECONDS // 60,
            extra={"event": "sign_in_limited"},
        )
