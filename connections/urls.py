from django.urls import path

from connections import views
from connections.ticket_view import tickets

urlpatterns = [
    path("api/tickets/", tickets, name="tickets"),
    path("livez", views.livez, name="livez"),
    path("readyz", views.readyz, name="readyz"),
    path("metrics", views.metrics, name="metrics"),
]
