"""The URLs of the operators' API, which a project includes to have it."""

from django.urls import re_path

from connections.api.views import api

urlpatterns = [
    re_path(r"^api/v1(?:/(?P<rest>[\s\S]*))?$", api, name="operators_api"),
]
