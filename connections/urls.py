"""URLs of health checks, metrics and tickets."""

from django.urls import path

from connections.views import health
from connections.views.tickets import tickets

urlpatterns = [
    path("api/tickets/", tickets, name="tickets"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
]
