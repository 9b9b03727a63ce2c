"""The settings that projects really have, each as a variation of the quickstart."""

from tests.adoption.projects import Variation

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
    "no_time_zones": Variation(settings="USE_TZ = False\n"),
    "another_time_zone": Variation(settings='TIME_ZONE = "Asia/Kathmandu"\n'),
    "login_required": Variation(settings=LOGIN_REQUIRED),
    "cached_sessions": Variation(
        settings='SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"\n'
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
        "CSRF_COOKIE_HTTPONLY = True\n"
    ),
    "csrf_in_sessions": Variation(settings="CSRF_USE_SESSIONS = True\n"),
}
