from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from orchestra.people import join, show_people
from orchestra.sign_in import limit_sign_ins
from orchestra.views import redirect_to_icon, show_conversations

sign_in = LoginView.as_view(
    template_name="orchestra/sign_in.html",
    redirect_authenticated_user=True,
    extra_context={"is_development": settings.DEBUG},
)

urlpatterns = [
    path("favicon.ico", redirect_to_icon),
    path("", show_conversations, name="conversations"),
    path("join/", join, name="join"),
    path("people/<str:session_id>/", show_people, name="people"),
    path("sign-in/", limit_sign_ins(sign_in), name="sign_in"),
    path("sign-out/", LogoutView.as_view(), name="sign_out"),
    path("", include("connections.urls")),
    path("", include("sessions_history.urls")),
    path("admin/login/", limit_sign_ins(admin.site.login)),
    path("admin/", admin.site.urls),
]
