"""The settings that projects really have, each as a variation of the quickstart."""

from typing import Any

from tests.adoption.projects import ASGI, Variation

UUID_USER = """
import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class PersonManager(BaseUserManager):
    def create_superuser(self, email, password, **more):
        person = self.model(email=email, is_staff=True, is_superuser=True, **more)
        person.set_password(password)
        person.save()
        return person


class Person(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.CharField(max_length=200, unique=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    USERNAME_FIELD = "email"
    objects = PersonManager()
"""

LOGIN_REQUIRED = """
MIDDLEWARE.append("django.contrib.auth.middleware.LoginRequiredMiddleware")
LOGIN_URL = "/admin/login/"
"""

OWN_DATABASE = """
DATABASES["own"] = dict(DATABASES["default"])
if "PROJECT_POSTGRES" in os.environ:
    DATABASES["own"]["NAME"] += "_own"
else:
    DATABASES["own"]["NAME"] = BASE_DIR / "own.sqlite3"
DATABASE_ROUTERS = ["mysite.routers.OwnDatabase"]
"""

ROUTERS = """
class OwnDatabase:
    apps = ("connections", "sessions_history")

    def db_for_read(self, model, **hints):
        return "own" if model._meta.app_label in self.apps else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return (app_label in self.apps) == (db == "own")
"""

TLS_PROXY = {
    "X-Forwarded-For": "198.51.100.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "chat.example.com",
}

SECURE = """
ALLOWED_HOSTS = ["chat.example.com"]
SECURE_SSL_REDIRECT = True
USE_X_FORWARDED_HOST = True
SECURE_HSTS_SECONDS = 3600
WEBSOCKET["trusted_proxies"] = ["127.0.0.1"]
"""

OWN_SITE = """
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig


class OfficeSite(AdminSite):
    site_header = "Office"


class OfficeConfig(AdminConfig):
    default_site = "mysite.office.OfficeSite"
"""

OFFICE_URLS = """
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("api/v1/", include("connections.urls")),
    path("", include("connections.urls")),
    path("staff/office/", admin.site.urls),
]
"""

I18N_URLS = """
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("connections.urls")),
    *i18n_patterns(path("admin/", admin.site.urls)),
]
"""

I18N = """
MIDDLEWARE.insert(
    MIDDLEWARE.index("django.middleware.common.CommonMiddleware"),
    "django.middleware.locale.LocaleMiddleware",
)
LANGUAGES = [("en", "English"), ("ar", "Arabic")]
"""

TOOLBAR = """
class Toolbar:
    \"\"\"Write into every page, as toolbars do, and look at each request.\"\"\"

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        repr(request)
        str(request.user)
        response = self.get_response(request)
        if not response.streaming and b"</body>" in response.content:
            response.content = response.content.replace(
                b"</body>", b"<div>toolbar</div></body>"
            )
            response["Content-Length"] = str(len(response.content))
        return response
"""

LOGGING = """
LOGGING = {
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["out"], "level": "DEBUG"},
}
"""

POOL = """
if "PROJECT_POSTGRES" in os.environ:
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 20}}
"""

OWN_LOGIN = """
WEBSOCKET["credential_backends"] = [
    "connections.credentials.AccessTokens",
    "connections.credentials.Tickets",
    "connections.credentials.ScopeUser",
]
"""

STACK = ASGI.replace(
    "from connections.routing",
    "from channels.auth import AuthMiddlewareStack\nfrom connections.routing",
).replace("\n    ],\n)", "\n    ],\n    middleware=AuthMiddlewareStack,\n)")

BASE_CLASS = """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django_application = get_asgi_application()

from channels.db import database_sync_to_async
from channels.routing import ProtocolTypeRouter, URLRouter
from chat.consumers import ChatConsumer, QuietConsumer, StaffConsumer
from connections.dashboard.consumers import LiveConsumer
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.signing import BadSignature, Signer
from django.urls import path
from sessions_history.consumers import SessionConsumer


def own_login(application):
    async def middleware(scope, receive, send):
        header = dict(scope["headers"]).get(b"authorization", b"").decode()
        try:
            login = Signer().unsign_object(header.removeprefix("Bearer "))
        except BadSignature:
            await send({"type": "websocket.close"})
            return
        users = get_user_model().objects.filter(username=login["user"])
        user = await database_sync_to_async(users.first)()
        scope = {**scope, "user": user or AnonymousUser(), "login": login["client"]}
        await application(scope, receive, send)

    return middleware


def known(consumer):
    class Known(consumer):
        def get_client_id(self, scope):
            return scope["login"]

    return own_login(Known.as_asgi())


application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": URLRouter(
            [
                path("ws/chat/", known(ChatConsumer)),
                path("ws/quiet/", known(QuietConsumer)),
                path("ws/staff/", known(StaffConsumer)),
                path("ws/sessions/<str:session_id>/", known(SessionConsumer)),
                path("ws/connections/live/", LiveConsumer.as_asgi()),
            ]
        ),
    }
)
"""

_OWN = "the project's own middleware alone decides who gets in"
_NO_TOKENS = "no access token, ticket, JWT or session is taken without protect()"
LEFT_OUT = {
    "a_token_lets_in_and_a_wrong_one_does_not": _OWN,
    "without_origin_and_credential_it_is_403": _OWN,
    "an_unknown_path_is_404": "Channels' URLRouter raises for it",
    "listed_apps_and_extensions_connect_with_a_cookie": _OWN,
    "a_login_is_a_credential_and_a_logout_ends_it": _NO_TOKENS,
    "a_session_that_nobody_has_is_refused": _NO_TOKENS,
    "a_ticket_of_a_token_is_good_once": _NO_TOKENS,
    "a_ticket_of_a_login_is_good": _NO_TOKENS,
    "a_token_that_expires_ends_its_connection": _NO_TOKENS,
    "a_token_that_never_ends_hinders_nobody": _NO_TOKENS,
    "staff_create_and_revoke_a_token": _NO_TOKENS,
    "staff_delete_a_user_with_tokens": _OWN,
}
"""Checks that do not apply to the base class alone, and the reason of each."""


def use_base_class(command: str) -> Variation:
    """Return a project that changed the base class of its consumers alone."""
    return Variation(
        files={"mysite/asgi.py": BASE_CLASS},
        command=command,
        has_own_tokens=True,
        has_close_reasons=command != "daphne",
        left_out=LEFT_OUT,
    )


PREFIX: dict[str, Any] = {"prefix": "/app", "settings": 'FORCE_SCRIPT_NAME = "/app"\n'}
ROOT_PATH: dict[str, Any] = {"prefix": "/app", "arguments": ("--root-path", "/app")}
UNIX: dict[str, Any] = {
    "is_unix": True,
    "settings": 'WEBSOCKET["trusted_proxies"] = ["unix"]\n',
    "headers": {"X-Forwarded-For": "198.51.100.7"},
}


def use_sessions(engine: str, more: str = "") -> Variation:
    """Return a variation with a session engine of Django."""
    module = f"django.contrib.sessions.backends.{engine}"
    return Variation(settings=f'SESSION_ENGINE = "{module}"\n{more}')


def use_cache(backend: str, location: str) -> Variation:
    """Return a variation with a cache that also keeps sessions."""
    module = f"django.core.cache.backends.{backend}"
    return use_sessions(
        "cached_db",
        f'CACHES = {{"default": {{"BACKEND": "{module}", "LOCATION": {location}}}}}\n',
    )


VARIATIONS = {
    "quickstart": Variation(),
    "uuid_user": Variation(
        settings='INSTALLED_APPS += ["people"]\nAUTH_USER_MODEL = "people.Person"\n',
        files={
            "people/__init__.py": "",
            "people/models.py": UUID_USER,
            "people/migrations/__init__.py": "",
        },
        make_migrations=("people",),
    ),
    "own_login": Variation(settings=OWN_LOGIN, files={"mysite/asgi.py": STACK}),
    "base_class": use_base_class("daphne"),
    "base_class_uvicorn": use_base_class("uvicorn"),
    "no_time_zones": Variation(
        settings='USE_TZ = False\nTIME_ZONE = "Asia/Kathmandu"\n'
    ),
    "another_time_zone": Variation(settings='TIME_ZONE = "Asia/Kathmandu"\n'),
    "login_required": Variation(settings=LOGIN_REQUIRED),
    "cached_sessions": use_sessions("cached_db"),
    "file_sessions": use_sessions("file", "SESSION_FILE_PATH = BASE_DIR\n"),
    "sessions_in_a_file_cache": use_sessions(
        "cache",
        'CACHES = {"default": {"LOCATION": BASE_DIR / "cache", "BACKEND":'
        ' "django.core.cache.backends.filebased.FileBasedCache"}}\n',
    ),
    "file_cache": use_cache("filebased.FileBasedCache", 'BASE_DIR / "cache"'),
    "dummy_cache": use_cache("dummy.DummyCache", '""'),
    "own_database": Variation(
        settings=OWN_DATABASE,
        files={"mysite/routers.py": ROUTERS},
        databases=("default", "own"),
    ),
    "kept_prefix": Variation(**PREFIX),
    "stripped_prefix": Variation(**PREFIX, is_stripped=True),
    "kept_root_path": Variation(**ROOT_PATH),
    "kept_root_path_daphne": Variation(**ROOT_PATH, command="daphne"),
    "stripped_root_path_daphne": Variation(
        **ROOT_PATH, command="daphne", is_stripped=True
    ),
    "stripped_root_path_uvicorn": Variation(
        **ROOT_PATH, command="uvicorn", is_stripped=True
    ),
    "unix_socket": Variation(**UNIX, command="daphne"),
    "unix_socket_uvicorn": Variation(**UNIX, command="uvicorn"),
    "tls_proxy": Variation(
        settings=SECURE,
        origin="https://chat.example.com",
        headers=TLS_PROXY,
    ),
    "own_admin_site": Variation(
        settings='INSTALLED_APPS[INSTALLED_APPS.index("django.contrib.admin")]'
        ' = "mysite.office.OfficeConfig"\nAPPEND_SLASH = False\n',
        files={"mysite/office.py": OWN_SITE, "mysite/urls.py": OFFICE_URLS},
        admin="/staff/office/",
    ),
    "languages_in_urls": Variation(
        settings=I18N, files={"mysite/urls.py": I18N_URLS}, admin="/en/admin/"
    ),
    "right_to_left": Variation(settings='LANGUAGE_CODE = "ar"\nUSE_L10N = True\n'),
    "hashed_static_files": Variation(
        settings='STATIC_ROOT = BASE_DIR / "static"\nSTORAGES = {"staticfiles":'
        ' {"BACKEND": "django.contrib.staticfiles.storage.'
        'ManifestStaticFilesStorage"}}\nSERVESTATIC_USE_FINDERS = False\n',
        commands=(("collectstatic", "--no-input", "--verbosity", "0"),),
    ),
    "static_files_elsewhere": Variation(
        settings='STATIC_URL = "https://cdn.example.com/static/"\n'
        'MIDDLEWARE.remove("servestatic.middleware.ServeStaticMiddleware")\n'
    ),
    "short_keys": Variation(
        settings='DEFAULT_AUTO_FIELD = "django.db.models.AutoField"\n'
    ),
    "toolbar": Variation(
        settings='MIDDLEWARE.append("chat.toolbar.Toolbar")\nDEBUG = True\n',
        files={"chat/toolbar.py": TOOLBAR},
    ),
    "own_logging": Variation(settings=LOGGING),
    "health_checked_database": Variation(
        settings='DATABASES["default"] |= {"CONN_MAX_AGE": None,'
        ' "CONN_HEALTH_CHECKS": True}\n'
    ),
    "german": Variation(
        settings='LANGUAGE_CODE = "de"\nUSE_THOUSAND_SEPARATOR = True\n'
    ),
    "atomic_requests": Variation(
        settings='DATABASES["default"]["ATOMIC_REQUESTS"] = True\n'
    ),
    "persistent_database": Variation(
        settings='DATABASES["default"]["CONN_MAX_AGE"] = 600\n'
    ),
    "renamed_cookies": Variation(
        settings='SESSION_COOKIE_NAME = "sid"\nCSRF_COOKIE_NAME = "xcsrf"\n'
        "CSRF_COOKIE_HTTPONLY = True\n",
        session_cookie="sid",
    ),
    "csrf_in_sessions": Variation(settings="CSRF_USE_SESSIONS = True\n"),
    "pool_of_psycopg": Variation(settings=POOL),
    "observe_mode": Variation(
        settings='WEBSOCKET["enforce"] = {"clients": "observe", "total": "observe",'
        ' "idle": "observe"}\n',
        observed=frozenset(("clients", "total", "idle")),
    ),
}
