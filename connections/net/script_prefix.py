"""
Find the URL prefix under which a proxy publishes the project.

Django calls it the script prefix (FORCE_SCRIPT_NAME), ASGI calls it root_path.
Some proxies remove it from the path, and some pass it on.
"""

from connections.asgi import Message


def with_script_prefix(scope: Message, forced: str | None) -> Message:
    """
    Return a scope whose path begins with its root_path, as ASGI requires.

    daphne passes on the path that it received, with or without the prefix.
    `forced` is FORCE_SCRIPT_NAME, which Django prefers to root_path.
    """
    configured = [one for one in (forced, scope.get("root_path")) if one]
    if not configured:
        return scope
    path: str = scope["path"]
    prefixes = [_normalise(one) for one in configured]
    if scope["type"] == "http" and prefixes[0] != configured[0]:
        # Django removes "/app/" with its slash, and then finds no page.
        return scope
    for prefix in prefixes:
        if f"{path}/".startswith(f"{prefix}/"):
            return {**scope, "root_path": prefix}
    return {**scope, "root_path": prefixes[0], "path": f"{prefixes[0]}{path}"}


def remove_script_prefix(scope: Message) -> str:
    """Return the path of a scope as the routes of the project name it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path") or "") or "/"


def _normalise(prefix: str) -> str:
    """Return a prefix with a slash at its begin and none at its end."""
    stripped = prefix.strip("/")
    return f"/{stripped}" if stripped else ""
