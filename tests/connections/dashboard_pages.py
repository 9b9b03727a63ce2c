"""The URL of the live dashboard, its staff, and a hostile client id."""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission

URL = "/admin/connections/livedashboard/"
EVIL = "<script>alert(1)</script>"


def make_staff(name: str, *permissions: str) -> Any:
    """Create a member of staff with permissions, given by codename."""
    user = get_user_model().objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user
