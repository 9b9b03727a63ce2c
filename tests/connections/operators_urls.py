"""The URLs of a project that includes the operators' API."""

from django.urls import include, path

urlpatterns = [
    path("", include("connections.urls")),
    path("", include("connections.api_urls")),
]
