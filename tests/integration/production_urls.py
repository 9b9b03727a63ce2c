"""The project's URLs, all under a prefix."""

from django.urls import include, path

urlpatterns = [path("site/", include("orchestra.urls"))]
