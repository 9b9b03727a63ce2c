"""Check the Cookie headers of a request before Django reads them."""

_MOST_ESCAPES = 100
"""The most backslashes in all Cookie headers. Before Python 3.11.10 and 3.12.6
http.cookies, which Django uses, takes quadratic time on them (CVE-2024-7592)."""


def find_problem(cookies: bytes) -> str | None:
    """Return the problem of the Cookie headers of a request, joined; or None."""
    if cookies.count(b"\\") > _MOST_ESCAPES:
        return "The cookies have too many escapes"
    if b"\\000" in cookies or b"\0" in cookies:
        # PostgreSQL refuses a NUL, so Django's look-up of such a session fails.
        return "A cookie holds a NUL"
    return None
