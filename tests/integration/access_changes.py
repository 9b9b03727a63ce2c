"""
Change the rights of users and clients, by name, inside a Django process.

AccessChangeConsumer (tests.integration.consumers) applies changes in a node's
process; `python -m tests.integration.access_changes` applies them in a process of
its own, one JSON object a line.
"""

import json
import subprocess
import sys
import time
from typing import Any

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.project import ROOT


def apply(name: str, *arguments: Any) -> dict[str, Any]:
    """Apply a change; return its result and the time when it was applied."""
    result = CHANGES[name](*arguments)
    return {"result": result, "applied_at": time.time()}


def make_user(name: str) -> str:
    """Create a user with the group and the permission, and return a token."""
    from django.contrib.auth.models import Group, Permission, User

    from connections.credentials.tokens import create_access_token

    user = User.objects.create_user(name)
    group, _ = Group.objects.get_or_create(name="staff")
    user.groups.add(group)
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    token, _ = create_access_token(name, user=user)
    return token


def log_in(name: str) -> str:
    """Log a user in; return the session key, the value of the cookie."""
    from django.contrib.auth import login
    from django.http import HttpRequest

    request = HttpRequest()
    request.session = _open_session(None)
    backend = "django.contrib.auth.backends.ModelBackend"
    login(request, _find(name), backend=backend)
    request.session.save()
    return str(request.session.session_key)


def log_in_staff() -> str:
    """Create a superuser and log in; return the session key."""
    from django.contrib.auth.models import User

    User.objects.create_superuser("root")
    return log_in("root")


def log_out(key: str) -> None:
    from django.contrib.auth import get_user, logout
    from django.http import HttpRequest

    request = HttpRequest()
    request.session = _open_session(key)
    request.user = get_user(request)
    logout(request)


def change_password(name: str) -> None:
    user = _find(name)
    user.set_unusable_password()
    user.save()


def deactivate(name: str) -> None:
    user = _find(name)
    user.is_active = False
    user.save()


def deactivate_silently(name: str) -> None:
    """Deactivate a user by a query, which sends no signal."""
    from django.contrib.auth.models import User

    User.objects.filter(username=name).update(is_active=False)


def delete_user(name: str) -> None:
    _find(name).delete()


def leave_group(name: str) -> None:
    user = _find(name)
    user.groups.clear()


def lose_permission(name: str) -> None:
    user = _find(name)
    user.user_permissions.clear()


def revoke_token(client_id: str) -> None:
    from django.utils import timezone

    from connections.models import AccessToken

    token = AccessToken.objects.get(client_id=client_id)
    token.revoked_at = timezone.now()
    token.save()


def delete_token(client_id: str) -> None:
    from connections.models import AccessToken

    AccessToken.objects.get(client_id=client_id).delete()


def ban(target: str, value: str) -> None:
    from connections.access.bans import impose
    from connections.models import Ban

    impose(Ban(target=target, value=value, author="tests"))


def unban(value: str) -> None:
    from connections.access.bans import lift
    from connections.models import Ban

    lift(Ban.objects.get(value=value))


CHANGES = {
    change.__name__: change
    for change in (
        make_user,
        log_in,
        log_in_staff,
        log_out,
        change_password,
        deactivate,
        deactivate_silently,
        delete_user,
        leave_group,
        lose_permission,
        revoke_token,
        delete_token,
        ban,
        unban,
    )
}


def _find(name: str) -> Any:
    from django.contrib.auth.models import User

    return User.objects.get(username=name)


def _open_session(key: str | None) -> Any:
    from django.contrib.sessions.backends.db import SessionStore

    return SessionStore(key)


class AccessChangeProcess:
    """A process, not a node, that applies changes to a server's database."""

    def __init__(self, server: LiveServer) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.access_changes"],
            cwd=ROOT,
            env=server.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "AccessChangeProcess":
        return self

    def __exit__(self, *details: object) -> None:
        self._process.communicate(timeout=scale(10))

    def apply(self, name: str, *arguments: Any) -> Any:
        """Apply a change; return the result of apply()."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _main() -> None:
    import django

    django.setup()
    for line in sys.stdin:
        print(json.dumps(apply(*json.loads(line))), flush=True)


if __name__ == "__main__":
    _main()
