"""Test that views write into sessions of the same server, and each key once."""

import httpx

from connections.client import SessionClient
from connections.testing import Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.session_client import SESSION_CONFIG


async def test_views_write_into_a_session_that_a_client_shows(servers: Servers) -> None:
    module = "tests.integration.writing_settings"
    server = servers.start(
        config=SESSION_CONFIG, environment={"DJANGO_SETTINGS_MODULE": module}
    )
    token = server.create_token("vera")
    url = f"{server.ws_url}/ws/sessions/"
    async with SessionClient(url, token=token) as client:
        await client.request({"text": "hello"}, answer=False)
        async with httpx.AsyncClient(timeout=scale(20)) as http:

            async def post(view: str) -> int:
                answered = await http.post(f"{server.url}/{view}/{client.session}/")
                assert answered.status_code == 200, answered.text
                offset: int = answered.json()["offset"]
                return offset

            views = ("note", "notice", "answer")
            offsets = [await post(view) for view in views]
            assert offsets == [2, 3, 4]
            # A request that is sent again writes nothing more.
            assert [await post(view) for view in views[:2]] == [2, 3]
        await wait_until(lambda: len(client.entries) == 4)
        await wait_until(lambda: client.entries[-1].state == "done")
        texts = [entry.text for entry in client.entries]
        assert texts[1:] == ["a note", "a notice", "from a view"]
