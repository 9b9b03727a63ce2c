"""Bound the lists of users and groups in the admin, as those of the library are."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User

from connections.dashboard.bounded_lists import BoundedList

admin.site.unregister((User, Group))


@admin.register(User)
class BoundedUserAdmin(BoundedList, UserAdmin):  # type: ignore[type-arg]
    """Users, by the filters of the page alone."""


@admin.register(Group)
class BoundedGroupAdmin(BoundedList, GroupAdmin):
    """Groups, by the search of the page alone."""
