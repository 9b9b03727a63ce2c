"""The project's URLs, and views that write into a session."""

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from sessions_history import writer


@csrf_exempt
def note(request: HttpRequest, session: str) -> JsonResponse:
    offset = writer.append_sync(session, {"text": "a note"}, key="the note")
    return JsonResponse({"offset": offset})


@csrf_exempt
async def notice(request: HttpRequest, session: str) -> JsonResponse:
    offset = await writer.append(session, {"text": "a notice"}, key="the notice")
    return JsonResponse({"offset": offset})


@csrf_exempt
async def answer(request: HttpRequest, session: str) -> JsonResponse:
    async with writer.open_stream(session, key="the answer") as stream:
        for word in ("from ", "a ", "view"):
            await stream.write(word)
    return JsonResponse({"offset": stream.offset})


urlpatterns = [
    path("note/<session>/", note),
    path("notice/<session>/", notice),
    path("answer/<session>/", answer),
    path("", include("orchestra.urls")),
]
