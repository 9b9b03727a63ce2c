"""
Configure the reference application from the environment.

docs/reference/configuration.md lists the variables. With none of them set it runs
on SQLite, in one process, on this machine.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dj_database_url
import django
from django.conf import global_settings
from django.core.exceptions import ImproperlyConfigured

from connections.config import load
from connections.net.origins import parse_pattern
from connections.stderr_log import log_stderr

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("ORCHESTRA_VAR") or BASE_DIR / "var")
VAR_DIR.mkdir(parents=True, exist_ok=True)


_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _read_boolean(name: str, default: bool) -> bool:
    text = os.environ.get(name) or str(default)
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        allowed = ", ".join(_BOOLEANS)
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed: {allowed}") from None


def _read_number(name: str, default: int, largest: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and int(text) <= largest):
        allowed = f"whole numbers from 0 to {largest}"
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed: {allowed}")
    return int(text)


def _read_list(name: str, default: str) -> list[str]:
    text = os.environ.get(name, default)
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_origins(name: str) -> list[str]:
    origins = _read_list(name, "")
    for origin in origins:
        try:
            parse_pattern(origin)
        except ValueError:
            allowed = "https://host, https://host:port, https://*.host"
            text = f"{name} has {origin!r}; allowed: {allowed}"
            raise ImproperlyConfigured(text) from None
    return origins


def _read_secret_key() -> str:
    """Return SECRET_KEY of the environment, else a key made and stored at first use."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    path = VAR_DIR / "secret_key"
    if not path.exists():
        # The file is written aside and linked into place, so that several processes
        # that start at once read the same key.
        draft = path.with_name(f"secret_key.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text()


def _read_choice(name: str, default: str, allowed: Sequence[str]) -> str:
    chosen = os.environ.get(name) or default
    if chosen not in allowed:
        text = f"{name} is {chosen!r}; allowed: {', '.join(allowed)}"
        raise ImproperlyConfigured(text)
    return chosen


def _is_server() -> bool:
    """Return False in management commands, such as migrate, that start no server."""
    program = Path(sys.argv[0])
    is_command = program.name in ("manage.py", "django-admin") or (
        program.parts[-2:] == ("django", "__main__.py")
    )
    return not is_command or sys.argv[1:2] in (["serve"], ["runserver"])


def _read_database() -> Any:
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{VAR_DIR / 'db.sqlite3'}"
    try:
        return dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True)
    except ValueError:
        # The value may contain a password.
        raise ImproperlyConfigured(
            "DATABASE_URL is no URL of a database; allowed: sqlite:////path/of/the/file"
            " or postgres://user:password@host:5432/name"
        ) from None


DEBUG = _read_boolean("DEBUG", False)
SECRET_KEY = _read_secret_key()
ALLOWED_HOSTS = _read_list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")

# connections gives a request the scheme that a trusted proxy names. A redirect where
# nothing speaks TLS would lock everybody out, so the environment switches it on.
SECURE_SSL_REDIRECT = _read_boolean("SECURE_SSL_REDIRECT", False)
SECURE_REDIRECT_EXEMPT = [r"^(livez|readyz|metrics)$"]
SESSION_COOKIE_SECURE = _read_boolean("SESSION_COOKIE_SECURE", not DEBUG)
CSRF_COOKIE_SECURE = _read_boolean("CSRF_COOKIE_SECURE", not DEBUG)
CSRF_TRUSTED_ORIGINS = _read_origins("CSRF_TRUSTED_ORIGINS")
# Browsers obey HSTS for as long as it says, also after the site has lost its TLS.
SECURE_HSTS_SECONDS = _read_number("HSTS_SECONDS", 0, 10**9)
SECURE_HSTS_INCLUDE_SUBDOMAINS = _read_boolean("HSTS_INCLUDE_SUBDOMAINS", False)
SECURE_HSTS_PRELOAD = _read_boolean("HSTS_PRELOAD", False)

INSTALLED_APPS = [
    "connections",
    "sessions_history",
    "orchestra",
    "servestatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
if importlib.util.find_spec("django_prometheus"):
    # It adds the metrics of migrations; 2.5.0 refuses Django 6.1.
    INSTALLED_APPS.append("django_prometheus")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware"
    if django.VERSION >= (6, 0)
    else "orchestra.middleware.content_security_policy",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "orchestra.urls"
ASGI_APPLICATION = "orchestra.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _create_private(name: str) -> None:
    """Create the SQLite file for this user alone; SQLite makes it for everybody."""
    path = Path(name)
    is_file = not name.startswith((":memory:", "file:"))
    if is_file and path.parent.is_dir() and not path.exists():
        path.touch(mode=0o600)


DATABASES = {"default": _read_database()}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    _create_private(str(DATABASES["default"]["NAME"]))
    DATABASES["default"]["TEST"] = {"NAME": VAR_DIR / "test.sqlite3"}
    _options = {
        # A deferred transaction that reads and then writes fails "locked" at once,
        # whatever the timeout; an immediate transaction waits.
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    _options = {"connect_timeout": 2}
    if _read_boolean("DATABASE_POOLED", False):
        # PgBouncer refuses "options", and gives each transaction another connection,
        # where a cursor of the server does not exist. node.database_timeout_seconds
        # limits statements nevertheless.
        DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
    else:
        _limit = "-c statement_timeout=10000 " if _is_server() else ""
        _options["options"] = f"{_limit}-c lock_timeout=5000"
# Options in the URL (?sslmode=require) take precedence.
_options |= DATABASES["default"].get("OPTIONS", {})
DATABASES["default"]["OPTIONS"] = _options
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

WEBSOCKET = load(
    BASE_DIR / "orchestra" / "websocket.yaml",
    os.environ,
    defaults={"echo_endpoint": DEBUG},
)

REDIS_URL = os.environ.get("REDIS_URL")
# A direct connection for LISTEN, where DATABASE_URL names a pooler.
DATABASE_LISTEN_URL = os.environ.get("DATABASE_LISTEN_URL")
# The newest key comes first: it encrypts, and each decrypts.
REDIS_ENCRYPTION_KEYS = _read_list("REDIS_ENCRYPTION_KEYS", "")
METRICS_TOKEN = os.environ.get("METRICS_TOKEN")
JWT_SECRET = os.environ.get("JWT_SECRET")

# Groups reach all nodes, over what the nodes share.
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "connections.layers.local.LocalLayer"}
}
if REDIS_URL:
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "connections.layers.redis.RedisLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    CHANNEL_LAYERS["default"]["BACKEND"] = "connections.layers.postgres.PostgresLayer"

# The server that sends alert mail; alert_recipients in the configuration gets it.
_mail_server: dict[str, Any] = {
    "host": os.environ.get("EMAIL_HOST", "localhost"),
    "port": _read_number("EMAIL_PORT", 25, 65_535),
    "username": os.environ.get("EMAIL_HOST_USER", ""),
    "password": os.environ.get("EMAIL_HOST_PASSWORD", ""),
    "use_tls": _read_boolean("EMAIL_USE_TLS", False),
}
if django.VERSION >= (6, 1):
    # Django 6.1 deprecates the settings below.
    MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": _mail_server,
        }
    }
else:
    EMAIL_HOST = _mail_server["host"]
    EMAIL_PORT = _mail_server["port"]
    EMAIL_HOST_USER = _mail_server["username"]
    EMAIL_HOST_PASSWORD = _mail_server["password"]
    EMAIL_USE_TLS = _mail_server["use_tls"]
SERVER_EMAIL = os.environ.get("SERVER_EMAIL", "orchestra@localhost")

# The dotted path of the responder in sessions; without it nothing answers.
SESSIONS_RESPONDER = os.environ.get("SESSIONS_RESPONDER") or None
SESSIONS_PERFORMER = os.environ.get("SESSIONS_PERFORMER")  # Its name until 0.3.

PASSWORD_HASHERS = [
    "orchestra.hashers.OwnThreadsPBKDF2PasswordHasher",
    *global_settings.PASSWORD_HASHERS[1:],
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "conversations"
LOGOUT_REDIRECT_URL = "sign_in"

# Nothing from other origins, and no inline script or style.
SECURE_CSP = {
    "default-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "object-src": ["'none'"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
}

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
SERVESTATIC_AUTOREFRESH = DEBUG
SERVESTATIC_USE_FINDERS = True

LOG_FORMAT = _read_choice("LOG_FORMAT", "text", ("text", "json"))
LOG_LEVEL = _read_choice(
    "LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
)
if LOG_FORMAT == "json":
    log_stderr()
logging.captureWarnings(True)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {
            "()": "connections.logs.TextFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s [%(context)s]: %(message)s",
        },
        "json": {"()": "connections.logs.JsonFormatter"},
    },
    "filters": {
        "context": {"()": "connections.logs.ContextFilter"},
        "errors": {"()": "connections.error_log.ErrorFilter"},
        "refusals": {"()": "connections.logs.RefusalFilter"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": LOG_FORMAT,
            "filters": ["context", "refusals", "errors"],
            # log_stderr() replaces the stream of this name without underscores.
            "stream": "ext://sys.__stderr__",
        }
    },
    "loggers": {
        # At DEBUG it writes every query with its values, session keys included.
        "django.db.backends": {"level": "INFO"},
        # Django gives them handlers of their own.
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
}
