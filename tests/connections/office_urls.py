"""The URLs of a project that has two admin sites of its own beside the default one."""

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest
from django.urls import include, path

from connections.dashboard.admin import LiveDashboardAdmin
from connections.models import Connection, LiveDashboard


class OfficeSite(AdminSite):
    """A site that demands an address of the office of its users."""

    def has_permission(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return super().has_permission(request) and user.email.endswith("@office.test")


class VerifiedSite(AdminSite):
    """A site whose rule needs an attribute that a middleware gives to users."""

    def has_permission(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return super().has_permission(request) and user.is_verified()


office, verified = OfficeSite(name="office"), VerifiedSite(name="verified")
bare, plain = AdminSite(name="bare"), AdminSite(name="plain")
for model in filter(admin.site.is_registered, apps.get_models()):
    office.register(model, type(admin.site.get_model_admin(model)))
for site in (verified, bare):
    site.register(LiveDashboard, LiveDashboardAdmin)
plain.register(Connection, type(admin.site.get_model_admin(Connection)))

urlpatterns = [
    path("", include("connections.urls")),
    path("office/", office.urls),
    path("verified/", verified.urls),
    path("bare/", bare.urls),
    path("plain/", plain.urls),
]
