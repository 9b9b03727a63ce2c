import re
import resource
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings as project
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.utils import ConnectionHandler
from django.urls import clear_url_caches, include, path, re_path

from connections.background import make_task_context
from connections.checks import (
    check_chosen_pool,
    check_configuration,
    check_deployment,
    check_pool,
    check_proxies,
    check_redis_url,
    check_sentry,
    check_urls,
)
from connections.exceptions import ConfigError
from connections.layers.checks import (
    check_channel_layer,
    check_layer_options,
    check_workers,
)
from connections.layers.local import LocalLayer
from connections.routing import protect
from connections.server.checks import check_runserver
from connections.storage.checks import (
    check_database,
    check_session_engine,
    find_readable_files,
)
from connections.telemetry.current import find_instruments
from tests.project import ROOT

SAFE: dict[str, Any] = {
    "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    "ALLOWED_HOSTS": ["chat.example.com"],
    "REDIS_URL": None,
    "CHANNEL_LAYERS": {"default": {"BACKEND": "connections.layers.local.LocalLayer"}},
    "WEBSOCKET": {},
}


def find(settings: Any, **changed: Any) -> set[str]:
    """Return the ids of warnings with safe settings and these changes."""
    for name, value in (SAFE | changed).items():
        setattr(settings, name, value)
    found = check_deployment()
    assert all(isinstance(one, checks.Warning) and one.hint for one in found)
    return {str(one.id).removeprefix("connections.") for one in found}


def test_a_safe_deployment_has_no_warnings(settings: Any) -> None:
    assert find(settings) == set()


def test_tls_in_the_process_itself_is_safe_too(settings: Any) -> None:
    found = find(settings, SECURE_PROXY_SSL_HEADER=None, SECURE_SSL_REDIRECT=True)
    assert found == set()


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ({"SECURE_PROXY_SSL_HEADER": None}, "W001"),
        ({"REDIS_URL": "redis://localhost"}, "W002"),
        ({"ALLOWED_HOSTS": ["chat.example.com", "*"]}, "W003"),
        ({"WEBSOCKET": {"ping_interval_seconds": 60}}, "W004"),
        ({"WEBSOCKET": {"idle_timeout_seconds": 0}}, "W006"),
        ({"WEBSOCKET": {"drain": {"grace_seconds": 29}}}, "W007"),
        (
            {"WEBSOCKET": {"drain": {"grace_seconds": 20, "delay_seconds": 10}}},
            "W007",
        ),
        ({"WEBSOCKET": {"anonymous": True}}, "W008"),
        ({"WEBSOCKET": {"metrics": {"allowed_addresses": ["::/0"]}}}, "W012"),
        ({"WEBSOCKET": {"trusted_proxies": ["10.0.0.1", "0.0.0.0/0"]}}, "W009"),
        ({"WEBSOCKET": {"trusted_proxies": ["::ffff:0.0.0.0/96"]}}, "W009"),
        ({"WEBSOCKET": {"trusted_proxies": ["::/0"]}}, "W009"),
        ({"WEBSOCKET": {"allowed_origins": ["http://example.com"]}}, "W010"),
        ({"WEBSOCKET": {"echo_endpoint": True}}, "W011"),
        ({"WEBSOCKET": {"enforce": {"idle": "observe"}}}, "W023"),
        ({"WEBSOCKET": {"enforce": {"routes": {"x/": {"size": "observe"}}}}}, "W023"),
    ],
)
def test_what_is_unsafe_is_named(
    settings: Any, changed: dict[str, Any], number: str
) -> None:
    assert find(settings, **changed) == {number}


@pytest.mark.parametrize(
    "websocket",
    [
        {"ping_interval_seconds": 59},
        {"drain": {"grace_seconds": 28}},
        {"trusted_proxies": ["10.0.0.0/8"]},
        {"trusted_proxies": ["unix"]},
        {"allowed_origins": ["https://example.com"]},
        {"allowed_origins": ["http://tauri.localhost", "capacitor://localhost"]},
    ],
)
def test_limits_at_their_bounds_are_no_warnings(
    settings: Any, websocket: dict[str, Any]
) -> None:
    assert find(settings, WEBSOCKET=websocket) == set()


@pytest.mark.parametrize(
    ("url", "key", "pool"),
    [
        (None, "auto", "memory"),
        ("redis://x", "auto", "redis"),
        ("redis://x", "redis", "redis"),
        ("redis://x", "memory", "memory"),
    ],
)
def test_the_chosen_pool_is_named(
    settings: Any, url: str | None, key: str, pool: str
) -> None:
    settings.REDIS_URL = url
    settings.WEBSOCKET = {"pool": key}
    (found,) = check_chosen_pool()
    assert (found.id, found.level) == ("connections.I001", checks.INFO)
    assert found.msg.startswith(f"The pool is {pool}: ")
    assert check_pool() == []


@pytest.mark.parametrize("pool", ["redis", "postgres"])
def test_a_pool_that_lacks_its_server_is_an_error(
    settings: Any, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    settings.REDIS_URL = None
    settings.WEBSOCKET = {"pool": pool}
    monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "vendor", "sqlite")
    (found,) = check_pool()
    assert (found.id, found.level) == ("connections.E007", checks.ERROR)
    assert found.msg.startswith(f"websocket.pool: '{pool}' is not allowed; ")
    with pytest.raises(ConfigError, match=r"websocket\.pool"):
        protect(http=None, websocket=[])


@pytest.mark.parametrize(
    "layer",
    ["channels.layers.InMemoryChannelLayer", "tests.connections.test_checks.OwnLayer"],
)
def test_a_layer_in_memory_beside_a_shared_pool_is_a_warning(
    settings: Any, layer: str
) -> None:
    layers = {"default": {"BACKEND": layer}}
    assert find(settings, REDIS_URL="redis://x", CHANNEL_LAYERS=layers) == {"W002"}


def test_a_redis_layer_reaches_every_node(settings: Any) -> None:
    layer = {"default": {"BACKEND": "connections.layers.redis.RedisLayer"}}
    assert find(settings, REDIS_URL="redis://x", CHANNEL_LAYERS=layer) == set()


def test_too_few_open_files_are_a_warning(settings: Any) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        pytest.skip("there is no hard limit here")
    # handshake.max_pending and http.max_requests
    fitting = int((most - 200 - 4 * 2000 - 2 * 200) / 1.1) - 1
    for total, found in ((fitting, set()), (fitting + 10, {"W005"})):
        assert find(settings, WEBSOCKET={"max_total_connections": total}) == found


def test_an_invalid_redis_url_leaves_the_other_checks_of_a_deployment(
    settings: Any,
) -> None:
    """check_redis_url() reports it."""
    changed = {"REDIS_URL": "redis://[::1:6379/0", "ALLOWED_HOSTS": ["*"]}
    assert "W003" in find(settings, **changed)


def test_every_wrong_value_is_a_separate_error(settings: Any) -> None:
    settings.WEBSOCKET = {"max_total_connections": 0, "what": 1}
    found = check_configuration()
    assert [one.id for one in found] == ["connections.E001"] * 2
    assert all(one.level == checks.ERROR for one in found)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nonsense", "'nonsense'"),
        ("http://host", "'http://host'"),
        ("redis://host:port", "'redis://host:port'"),
        ("redis://[::1:6379/0", "'redis://[::1:6379/0'"),
        ("redis+sentinel://host/0", "'redis+sentinel://host/0'"),
        ("redis://:hidden/half@host", "'redis://...'"),
        ("http://host?password=hidden", "'http://...'"),
    ],
)
def test_an_invalid_redis_url_is_an_error(settings: Any, url: str, shown: str) -> None:
    """No server can import the application with it."""
    settings.REDIS_URL = url
    (found,) = check_redis_url()
    assert (found.id, found.level) == ("connections.E003", checks.ERROR)
    assert found.msg.startswith(f"REDIS_URL: {shown} is not allowed; redis://")
    for scheme in ("rediss://", "unix://", "redis+sentinel://"):
        assert scheme in found.msg
    with pytest.raises(ConfigError, match="REDIS_URL"):
        protect(http=None, websocket=[])


def test_a_redis_url_without_its_package_is_an_error(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = "redis://:hidden@host"
    monkeypatch.setitem(sys.modules, "redis", None)
    (found,) = check_redis_url()
    assert "pip install channels-redis" in found.msg
    assert "hidden" not in found.msg


@pytest.mark.parametrize(("key", "count"), [("postgres", 1), ("memory", 0)])
def test_psycopg2_is_an_error_unless_the_pool_is_in_memory(
    settings: Any, monkeypatch: pytest.MonkeyPatch, key: str, count: int
) -> None:
    settings.REDIS_URL = None
    settings.WEBSOCKET = {"pool": key}
    monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "vendor", "postgresql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    found = check_pool()
    assert [one.msg.count("psycopg 3") for one in found] == [1] * count


@pytest.mark.parametrize("url", [None, "", "redis://host", "unix:///run/redis"])
def test_a_valid_redis_url_is_no_error(settings: Any, url: str | None) -> None:
    settings.REDIS_URL = url
    assert check_redis_url() == []


def test_a_missing_channel_layer_is_a_warning(settings: Any) -> None:
    """The check needs no --deploy, because consumers with groups would fail."""
    assert check_channel_layer() == []
    settings.CHANNEL_LAYERS = {}
    (found,) = check_channel_layer()
    assert isinstance(found, checks.Warning)
    assert found.id == "connections.W013"
    assert "connections.layers.local.LocalLayer" in str(found.hint)
    del settings.CHANNEL_LAYERS
    assert check_channel_layer() == [found]
    assert check_deployment() is not None


def test_a_session_engine_without_storage_is_named(settings: Any) -> None:
    assert check_session_engine() == []
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    (found,) = check_session_engine()
    assert (found.id, found.level) == ("connections.W014", checks.WARNING)


@pytest.mark.parametrize("other", ["daphne", "django.contrib.staticfiles"])
def test_an_app_that_hides_our_runserver_is_named(settings: Any, other: str) -> None:
    ours = [one for one in settings.INSTALLED_APPS if one not in ("connections", other)]
    settings.INSTALLED_APPS = ["connections", other, *ours]
    assert check_runserver() == []
    settings.INSTALLED_APPS = [other, "connections", *ours]
    (found,) = check_runserver()
    assert (found.id, found.level) == ("connections.W021", checks.WARNING)
    assert f"that of {other}," in found.msg


class Elsewhere:
    """Puts all tables on a database that is not supported."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "elsewhere"


def test_a_database_that_cannot_be_used_is_an_error(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL's backend needs its driver; Django's dummy backend needs none."""
    assert check_database() == []
    monkeypatch.setitem(
        connections.databases,
        "elsewhere",
        connections.configure_settings({})["default"],
    )
    settings.DATABASE_ROUTERS = [Elsewhere()]
    (found,) = check_database()
    assert (found.id, found.level) == ("connections.E004", checks.ERROR)
    assert "'elsewhere' is unknown" in found.msg


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https")),
        ("USE_X_FORWARDED_HOST", True),
        ("USE_X_FORWARDED_PORT", True),
    ],
)
def test_a_proxy_that_is_not_trusted_is_named(
    settings: Any, name: str, value: object
) -> None:
    settings.WEBSOCKET = {}
    assert check_proxies() == []
    setattr(settings, name, value)
    (found,) = check_proxies()
    assert (found.id, found.level) == ("connections.W015", checks.WARNING)
    assert name in found.msg
    settings.WEBSOCKET = {"trusted_proxies": ["10.0.0.1"]}
    assert check_proxies() == []


# URL patterns on the same path


def theirs(request: Any) -> Any:
    """A view of the project."""


THEIRS = [path("", include([path("metrics", theirs), path("livez", theirs)]))]
OURS = [path("", include("connections.urls"))]
ANY = [re_path(r"^(?P<rest>.*)$", theirs)]


def find_overlapping(settings: Any, monkeypatch: Any, patterns: list[Any]) -> list[Any]:
    urls = ModuleType("overlapping_urls")
    urls.urlpatterns = patterns  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, urls.__name__, urls)
    settings.ROOT_URLCONF = urls.__name__
    clear_url_caches()
    found = [(one.id, one.msg.partition(";")[0]) for one in check_urls()]
    clear_url_caches()
    return found


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (OURS, []),
        (THEIRS, []),
        ([path("ws/", include("connections.urls")), *THEIRS], []),
        (
            OURS + THEIRS,
            [
                ("W017", "/livez is answered by connections.views.health.livez"),
                ("W017", "/metrics is answered by connections.views.health.metrics"),
            ],
        ),
        (
            THEIRS + OURS,
            [
                ("W018", "/livez is answered by tests.connections.test_checks.theirs"),
                (
                    "W018",
                    "/metrics is answered by tests.connections.test_checks.theirs",
                ),
            ],
        ),
    ],
)
def test_of_two_views_on_one_path_the_check_names_the_one_that_answers(
    settings: Any, monkeypatch: Any, patterns: list[Any], expected: list[Any]
) -> None:
    found = find_overlapping(settings, monkeypatch, patterns)
    assert found == [(f"connections.{number}", text) for number, text in expected]


def test_a_pattern_that_takes_every_path_hides_all_views(
    settings: Any, monkeypatch: Any
) -> None:
    assert len(find_overlapping(settings, monkeypatch, ANY + OURS)) == 4
    # Behind them it answers what no other view does, as a frontend's index.
    assert find_overlapping(settings, monkeypatch, OURS + ANY) == []


def test_django_prometheus_before_ours_is_fine(settings: Any, monkeypatch: Any) -> None:
    """Its /metrics has the series of the node."""
    exports = pytest.importorskip("django_prometheus.exports")
    patterns = [path("metrics", exports.ExportToDjangoView)]
    assert find_overlapping(settings, monkeypatch, patterns + OURS) == []
    ((number, _),) = find_overlapping(settings, monkeypatch, OURS + patterns)
    assert number == "connections.W017"


class OwnLayer(LocalLayer):
    """A layer of a project, in the memory of one process."""


@pytest.mark.parametrize(
    ("changed", "worker"),
    [
        ({}, None),
        ({"CELERY_BROKER_URL": "redis://localhost"}, "Celery"),
        ({"INSTALLED_APPS": [*project.INSTALLED_APPS, "django_rq"]}, "django_rq"),
    ],
)
@pytest.mark.parametrize(
    ("layer", "reaches_workers"),
    [
        ("connections.layers.local.LocalLayer", False),
        ("channels.layers.InMemoryChannelLayer", False),
        ("tests.connections.test_checks.OwnLayer", False),
        ("tests.missing.Layer", True),
        ("connections.layers.redis.RedisLayer", True),
        ("connections.layers.postgres.PostgresLayer", True),
    ],
)
def test_workers_need_a_layer_that_reaches_the_clients(
    settings: Any,
    changed: dict[str, Any],
    worker: str | None,
    layer: str,
    reaches_workers: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "django_rq").mkdir()
    (tmp_path / "django_rq" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": layer}}
    for name, value in changed.items():
        setattr(settings, name, value)
    found = check_workers()
    assert bool(found) is (worker is not None and not reaches_workers)
    assert all(str(worker) in one.msg and one.id == "connections.W019" for one in found)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o644, ["connections.W020"]),
        (0o604, ["connections.W020"]),
        (0o640, []),
        (0o600, []),
    ],
)
def test_a_sqlite_file_that_everybody_reads_is_a_warning(
    tmp_path: Path, mode: int, expected: list[str]
) -> None:
    path = tmp_path / "db.sqlite3"
    path.touch()
    path.chmod(mode)
    default = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    handler = ConnectionHandler({"default": default})
    found = find_readable_files(handler.all())
    assert [one.id for one in found] == expected
    assert all(str(path) in one.msg for one in found)


@pytest.mark.parametrize("folder", ["connections", "sessions_history", "docs"])
def test_no_text_says_that_the_library_reads_secrets_from_the_environment(
    folder: str,
) -> None:
    """It reads Django's settings; a project's settings.py may read the environment."""
    names = "JWT_SECRET|METRICS_TOKEN|REDIS_URL"
    claim = re.compile(rf"({names})\W+(in|from|of) the environment")
    texts = [
        path
        for kind in ("*.py", "*.md", "*.html")
        for path in (ROOT / folder).rglob(kind)
        if "_build" not in path.parts
    ]
    assert texts
    found = [str(path) for path in texts if claim.search(path.read_text())]
    assert found == []


POSTGRES_LAYER = "connections.layers.postgres.PostgresLayer"


CLUSTER_URL = "redis+cluster://:secret@one,two"
REDIS_LAYER = "connections.layers.redis.RedisLayer"


@pytest.mark.parametrize(
    ("backend", "host", "problem"),
    [
        (REDIS_LAYER, CLUSTER_URL, ""),
        (REDIS_LAYER, "redis://:secret@one", ""),
        (REDIS_LAYER, ("one", 6379), ""),
        (REDIS_LAYER, f"{CLUSTER_URL}/1", "no database but 0"),
        (REDIS_LAYER, {"address": CLUSTER_URL}, "as a text in hosts"),
        ("channels_redis.core.RedisChannelLayer", CLUSTER_URL, f"{REDIS_LAYER} can"),
    ],
)
def test_a_layer_that_cannot_use_a_redis_cluster_is_an_error(
    settings: Any, backend: str, host: Any, problem: str
) -> None:
    config = {"hosts": [host]}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    found = [one.msg for one in check_layer_options()]
    assert [problem in one for one in found] == ([True] if problem else [])
    assert "secret" not in "".join(found)


@pytest.mark.skipif(connection.vendor == "postgresql", reason="PostgreSQL has it")
def test_the_layer_of_postgresql_needs_it(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "connections.layers.local.LocalLayer"},
        "other": {"BACKEND": POSTGRES_LAYER},
    }
    (found,) = check_layer_options()
    assert (found.id, found.level) == ("connections.E008", checks.ERROR)
    assert "The channel layer other cannot be used" in found.msg
    assert "PostgreSQL in DATABASES" in found.msg


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, ""),
        ({"capacity": 5, "prefix": "a.b"}, ""),
        ({"hosts": []}, "hosts"),
        ({"prefix": ""}, "prefix is ''"),
        ({"prefix": "x" * 41}, "prefix"),
        ({"capacity": 0}, "capacity is 0, not above 0"),
        ({"expiry": "60"}, "expiry is '60', not a number"),
        ({"poll_seconds": True}, "poll_seconds is True, not a number"),
        ({"symmetric_encryption_keys": [""]}, "symmetric_encryption_keys"),
    ],
)
def test_the_options_of_the_layer_of_postgresql_are_checked(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    problem: str,
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": POSTGRES_LAYER, "CONFIG": config}}
    monkeypatch.setattr(connection, "vendor", "postgresql")
    found = check_layer_options()
    assert [problem in one.msg for one in found] == ([True] if problem else [])


def test_an_old_sentry_sdk_is_named_and_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node starts its tasks with it, as without any."""
    monkeypatch.setitem(sys.modules, "sentry_sdk", ModuleType("sentry_sdk"))
    assert [one.id for one in check_sentry()] == ["connections.W028"]
    make_task_context()
    assert find_instruments() == ()
    monkeypatch.delitem(sys.modules, "sentry_sdk")
    assert check_sentry() == []
