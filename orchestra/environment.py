"""Read the environment variables of responders, and name what is wrong in them."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token of RFC 9110, section 5.6.2."""

_OWN_KEYS = ("messages", "stream")
"""Keys of the body that no setting replaces."""


def read_seconds(name: str, default: float) -> float:
    """
    Return a variable as a number of seconds.

    Raises:
        ImproperlyConfigured: it is none from 0 to 3600.
    """
    text = os.environ.get(name) or str(default)
    seconds = _parse(text)
    if seconds is None or not 0 <= seconds <= 3600:
        raise ImproperlyConfigured(
            f"{name} is {text!r}: a number of seconds from 0 to 3600 is allowed"
        )
    return seconds


def read_temperature(name: str) -> float | None:
    """
    Return a variable as the temperature of a model, None without one.

    Raises:
        ImproperlyConfigured: it is no number from 0 to 2.
    """
    text = os.environ.get(name)
    if not text:
        return None
    number = _parse(text)
    if number is None or not 0 <= number <= 2:
        raise ImproperlyConfigured(
            f"{name} is {text!r}: a number from 0 to 2 is allowed"
        )
    return number


def read_count(name: str) -> int | None:
    """
    Return a variable as a whole number above 0, None without one.

    Raises:
        ImproperlyConfigured: it is something else.
    """
    text = os.environ.get(name)
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise ImproperlyConfigured(
            f"{name} is {text!r}: a whole number above 0 is allowed"
        )
    return int(text)


def read_object(name: str) -> dict[str, Any]:
    """
    Return a variable as an object of JSON, an empty one without it.

    Raises:
        ImproperlyConfigured: it is something else.
    """
    text = os.environ.get(name)
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        # The text may hold a key.
        raise ImproperlyConfigured(
            f'{name} is no JSON object: one such as {{"top_p": 0.9}} is allowed'
        )
    return found


def check_body(name: str, body: Mapping[str, Any]) -> None:
    """
    Check the keys that a setting adds to the body of each request.

    Raises:
        ImproperlyConfigured: it would replace the conversation.
    """
    for key in _OWN_KEYS:
        if key in body:
            raise ImproperlyConfigured(f"{name} has {key!r}, which cannot be replaced")


def check_headers(name: str, headers: Mapping[str, Any]) -> None:
    """
    Check the headers that a setting adds to each request.

    Raises:
        ImproperlyConfigured: a header cannot be sent; the text names it alone,
            because a value may be a key.
    """
    for header, value in headers.items():
        if not _HEADER_NAME.fullmatch(header) or not _is_sendable(value):
            raise ImproperlyConfigured(
                f"{name} has the header {header!r}, which cannot be sent: a name of"
                " HTTP and a text of printable ASCII characters are allowed"
            )


def read_key(name: str, key: str | None = None) -> str:
    """
    Return a key, or that of a variable; empty without one.

    A line that ends with it in a file is no part of it.

    Raises:
        ImproperlyConfigured: it cannot be sent in a header; the text names the
            variable alone.
    """
    key = (key or os.environ.get(name) or "").strip()
    if not _is_sendable(key):
        raise ImproperlyConfigured(
            f"{name} cannot be sent: a text of printable ASCII characters is allowed"
        )
    return key


def _is_sendable(value: Any) -> bool:
    """Return whether a value can be that of a header (RFC 9110, section 5.5)."""
    is_text = isinstance(value, str) and value.isascii() and value.isprintable()
    return is_text and value == value.strip()


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
