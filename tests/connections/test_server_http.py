"""Test one HTTP connection: its bodies, its responses, and their minimum rates."""

import asyncio
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from connections.asgi import Message, Receive, Send
from tests.connections.http_channel import Peer

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
END = b"0\r\n\r\n"
"""The last chunk of a body (RFC 9112, section 7.1)."""


class Application:
    """Reads each body, then sends the parts of the response."""

    def __init__(self, *parts: bytes, status: int = 200, headers: Any = ()) -> None:
        self.parts = parts or (b"",)
        self.status = status
        self.headers = headers
        self.bodies: list[bytes] = []
        self.events: list[str] = []
        self.sent_parts = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body, has_more = b"", True
        while has_more:
            event = await receive()
            self.events.append(event["type"])
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            has_more = event["more_body"]
        self.bodies.append(body)
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": self.headers})
        for part in self.parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            self.sent_parts += 1
        await send({"type": "http.response.body", "body": self.parts[-1]})
        self.events.append((await receive())["type"])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture(autouse=True)
def configuration(settings: Any) -> Any:
    settings.WEBSOCKET = {"handshake": {"max_body_size": "100MB"}}
    return settings


def find_files() -> set[str]:
    """
    Return the deleted files that this process has open: bodies in files.

    Those of earlier tests may be closed meanwhile, as by a garbage collection.
    """
    folder = Path("/proc/self/fd")
    targets = []
    for name in os.listdir(folder):
        try:
            targets.append(os.readlink(folder / name))
        except FileNotFoundError:
            continue
    return {target for target in targets if target.endswith("(deleted)")}


@pytest.mark.parametrize(
    ("cookies", "status"),
    [
        ([b'a="\\000"'], 400),
        ([b"a=b", b"c=\0"], 400),
        ([b"a=" + b"\\" * 101], 400),
        ([b"a=" + b"\\" * 60] * 2, 400),
        ([b"a=" + b"\\" * 50] * 2, 200),
        ([b'a="b\\001"'], 200),
    ],
)
async def test_cookies_that_django_cannot_read_are_refused(
    cookies: list[bytes], status: int
) -> None:
    lines = b"".join(b"Cookie: %b\r\n" % one for one in cookies)
    async with Peer(Application()) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("digits", [4_299, 5_000])
async def test_a_length_of_thousands_of_digits_is_refused(digits: int) -> None:
    """Python reads no number of more than 4,300 digits."""
    async with Peer(Application()) as peer:
        length = b"1" * digits
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length)
        await peer.send(b"\r\n\r\n")
        status = 413 if digits < 4_300 else 400
        assert (await peer.read()).startswith(b"HTTP/1.1 %d " % status)


# Uploads


async def test_an_upload_that_moves_may_take_long() -> None:
    """A megabyte at 14 kB/s used to get 408 after a minute."""
    application = Application(b"done")
    async with Peer(application) as peer:
        await peer.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
        for _ in range(71):
            await peer.send(b"x" * 14_000)
            peer.time.advance(1)
        await peer.send(b"x" * 6_000)
        assert (await peer.read()).startswith(b"HTTP/1.1 200")
    assert len(application.bodies[0]) == 1_000_000


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"]
)
async def test_an_upload_below_the_minimum_rate_is_refused(framing: bytes) -> None:
    async with Peer(Application()) as peer:
        await peer.send(HEAD + framing + b"\r\n\r\n")
        is_chunked = b"chunked" in framing
        for _ in range(59):
            await peer.send(chunk(b"x") if is_chunked else b"x")
            peer.time.advance(1)
        assert await peer.read() == b""
        peer.time.advance(2)
        assert (await peer.read()).startswith(b"HTTP/1.1 408")
        peer.time.advance(3)
        await peer.settle()
        assert not peer.is_connected


async def test_the_rate_counts_without_the_framing_of_chunks() -> None:
    """Long extensions of chunks are no progress."""
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(61):
            await peer.send(b"1;" + b"e" * 900 + b"\r\nx\r\n")
            peer.time.advance(1)
        assert (await peer.read()).startswith(b"HTTP/1.1 408")


async def test_the_minimum_rate_is_configured(configuration: Any) -> None:
    configuration.WEBSOCKET["http"] = {"min_bytes_per_second": 1, "stall_seconds": 5}
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(10):
            await peer.send(b"x")
            peer.time.advance(1)
        assert await peer.read() == b""
        peer.time.advance(6)
        assert (await peer.read()).startswith(b"HTTP/1.1 408")


async def test_a_body_in_many_small_chunks_is_refused() -> None:
    """A chunk takes microseconds of the loop, whatever its size."""
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.send(*[chunk(b"x") * 10_000] * 3)
        assert (await peer.read()).startswith(b"HTTP/1.1 400")


async def test_a_body_of_lines_in_chunks_is_taken() -> None:
    """A client may send each line of a text in a chunk of its own."""
    application = Application()
    async with Peer(application) as peer:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.send(*[chunk(b"x" * 40) * 1000] * 30, b"0\r\nTrailer: y\r\n\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 200")
    assert len(application.bodies[0]) == 30 * 1000 * 40


async def test_chunks_count_by_their_content(configuration: Any) -> None:
    """The size line of a chunk used to count towards max_body_size."""
    configuration.WEBSOCKET["handshake"]["max_body_size"] = "10kB"
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.send(chunk(b"x" * 10) * 1000, b"0\r\n\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 200")
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.send(chunk(b"x" * 10_001))
        assert (await peer.read()).startswith(b"HTTP/1.1 413")


async def test_a_large_body_waits_in_a_file_and_not_in_the_buffers(
    configuration: Any,
) -> None:
    configuration.WEBSOCKET["buffers"] = {"max_total_bytes": "1MB"}
    application = Application(b"done")
    before = find_files()
    async with Peer(application) as peer:
        for _ in range(2):
            await peer.send(HEAD + b"Content-Length: 20000000\r\n\r\n")
            await peer.send(*[b"x" * 100_000] * 199)
            assert len(find_files() - before) == 1
            assert peer.server.budget.total_bytes == 0
            await peer.send(b"y" * 100_000)
            await peer.read_to(b"done\r\n" + END)
            assert not find_files() - before
    assert [len(body) for body in application.bodies] == [20_000_000] * 2
    assert application.bodies[0].endswith(b"xy" + b"y" * 99_999)


async def test_a_form_is_not_parsed_on_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Twisted reads a form into memory and refuses one that it cannot parse."""
    application = Application()
    async with Peer(application) as peer:
        form = b"Content-Type: multipart/form-data\r\nContent-Length: 4\r\n\r\n"
        await peer.send(HEAD + form + b"form")
        assert (await peer.read()).startswith(b"HTTP/1.1 200")
    assert application.bodies == [b"form"]


async def test_an_aborted_upload_leaves_no_file() -> None:
    before = find_files()
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x" * 500_000)
        assert len(find_files() - before) == 1
        await peer.leave()
        assert not find_files() - before


async def test_the_body_of_a_handshake_leaves_no_file() -> None:
    before = find_files()
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    async with Peer(Application()) as peer:
        await peer.send(upgrade + b"Content-Length: 200000\r\n\r\n", b"x" * 199_999)
        assert len(find_files() - before) == 1
        await peer.send(b"x")
        assert (await peer.read()).startswith(b"HTTP/1.1 400")
        assert not find_files() - before


async def test_a_refused_upload_leaves_no_file(configuration: Any) -> None:
    configuration.WEBSOCKET["handshake"]["max_body_size"] = "200kB"
    before = find_files()
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await peer.send(*[chunk(b"x" * 50_000)] * 5)
        assert (await peer.read()).startswith(b"HTTP/1.1 413")
        assert not find_files() - before
        assert peer.server.request_limits.refusals == {"body_too_large": 1}


async def test_the_files_of_all_bodies_are_bounded(configuration: Any) -> None:
    """The largest upload is refused; 503 would make a proxy ask another node."""
    configuration.WEBSOCKET["http"] = {"max_total_body_bytes": "1MB"}
    head = HEAD + b"Content-Length: 700000\r\n\r\n"
    before = find_files()
    async with (
        Peer(Application()) as larger,
        Peer(Application(), beside=larger) as smaller,
    ):
        await smaller.send(head, b"x" * 400_000)
        await larger.send(head, b"x" * 650_000)
        answer = await larger.read()
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"Retry-After" in answer
        assert larger.server.request_limits.refusals == {"over_budget": 1}
        assert len(find_files() - before) == 1
        await smaller.send(b"x" * 300_000)
        assert (await smaller.read()).startswith(b"HTTP/1.1 200")
        assert larger.server.body_files.total_bytes == 0


async def test_a_client_that_leaves_while_its_body_is_read_disconnects(
    configuration: Any,
) -> None:
    class Slow(Application):
        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await read_on.wait()
            self.events.append((await receive())["type"])

    read_on = asyncio.Event()
    application = Slow()
    before = find_files()
    async with Peer(application) as peer:
        await peer.send(HEAD + b"Content-Length: 200000\r\n\r\n", b"x" * 200_000)
        await peer.leave()
        read_on.set()
        await peer.settle()
    assert application.events == ["http.disconnect"]
    assert not find_files() - before


async def test_a_body_that_cannot_be_stored_is_refused(
    configuration: Any, tmp_path: Path
) -> None:
    configuration.FILE_UPLOAD_TEMP_DIR = str(tmp_path / "missing")
    async with Peer(Application()) as peer:
        await peer.send(HEAD + b"Content-Length: 200000\r\n\r\n", b"x" * 100_000)
        answer = await peer.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in answer


async def test_a_client_that_expects_100_gets_it_unless_it_is_refused(
    configuration: Any,
) -> None:
    configuration.WEBSOCKET["handshake"]["max_body_size"] = "10kB"
    expects = HEAD + b"Expect: 100-continue\r\n"
    async with Peer(Application(b"done")) as peer:
        await peer.send(expects + b"Content-Length: 4\r\n\r\n")
        assert await peer.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"body")
        assert (await peer.read()).endswith(b"done\r\n" + END)
        await peer.send(expects + b"Content-Length: 10001\r\n\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 413")


# Responses


async def test_a_response_waits_for_its_client() -> None:
    """A response that nobody read used to grow without bound."""
    application = Application(*[b"x" * 10_000] * 1000)
    async with Peer(application) as peer:
        await peer.send(GET)
        assert application.sent_parts < 20
        assert len(await peer.read_to(END)) > 10_000_000
        assert application.sent_parts == 999
        assert application.events == ["http.request", "http.disconnect"]


async def test_an_application_learns_that_a_client_left_that_did_not_read() -> None:
    application = Application(*[b"x" * 10_000] * 1000)
    async with Peer(application) as peer:
        await peer.send(GET)
        await peer.leave()
        await asyncio.gather(*peer.server.applications)
    assert application.events[-1] == "http.disconnect"
    assert application.sent_parts == 999, "after the end send() does not wait"


async def test_the_declared_version_is_one_whose_send_does_not_raise() -> None:
    """By 2.4 Starlette streams on until it does, and listens for no disconnect."""
    scopes: list[Message] = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scopes.append(scope)

    async with Peer(application) as peer:
        await peer.send(GET)
        await peer.leave()
    assert scopes[0]["asgi"] == {"version": "3.0", "spec_version": "2.3"}


async def test_an_application_that_sends_for_ever_leaves_the_loop_to_others() -> None:
    async def endless(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            part = {"type": "http.response.body", "body": b"x", "more_body": True}
            await send(part)

    async with Peer(endless) as peer:
        await peer.send(GET)
        await peer.leave()
        (task,) = peer.server.requests
        task.cancel()
        await peer.settle()
        assert task.cancelled()


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""])
async def test_a_download_that_moves_is_completed(closing: bytes) -> None:
    """Fifteen seconds after the last byte was written it used to be reset."""
    application = Application(b"x" * 60_000)
    async with Peer(application) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
        received = await peer.read_to(END, most=500, seconds=2)
        assert received.count(b"x" * 1000) == 60


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""])
@pytest.mark.parametrize("parts", [1, 100])
async def test_a_client_that_does_not_read_is_cut_off(
    closing: bytes, parts: int
) -> None:
    application = Application(*[b"x" * 60_000] * parts)
    async with Peer(application) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
        peer.time.advance(59)
        await peer.settle()
        assert peer.is_connected
        peer.time.advance(62)
        await peer.settle()
        assert not peer.is_connected


async def test_a_client_that_reads_less_than_the_minimum_is_cut_off() -> None:
    async with Peer(Application(b"x" * 60_000)) as peer:
        await peer.send(GET)
        for _ in range(190):
            await peer.read(10)
            peer.time.advance(1)
            await peer.settle()
        assert not peer.is_connected


async def test_the_end_of_a_response_is_not_cut_off_by_a_refusal() -> None:
    """The next request is refused while the client still reads."""
    async with Peer(Application(b"x" * 60_000)) as peer:
        await peer.send(GET)
        await peer.send(b"nonsense\r\n\r\n")
        received = await peer.read_to(b"too large\n", most=1000, seconds=1)
        assert received.count(b"x" * 1000) == 60
        assert b"HTTP/1.1 400" in received


async def test_a_response_in_the_buffers_counts_until_it_is_sent() -> None:
    async with Peer(Application(b"x" * 1_000_000)) as peer:
        await peer.send(GET)
        assert peer.server.budget.total_bytes > 900_000
        await peer.read_to(END)
        assert peer.server.budget.total_bytes == 0


async def test_a_response_that_holds_most_is_cut_off(configuration: Any) -> None:
    configuration.WEBSOCKET["buffers"] = {"max_total_bytes": "500kB"}
    async with Peer(Application(b"x" * 1_000_000)) as peer:
        await peer.send(GET)
        assert not peer.is_connected
        assert peer.server.budget.total_bytes == 0


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)]
)
async def test_a_response_without_a_body_has_none(method: bytes, status: int) -> None:
    """The second part used to stand where the next response begins."""
    own = [(b"Content-Length", b"5")] if method == b"HEAD" else []
    application = Application(b"one", b"two", b"three", status=status, headers=own)
    async with Peer(application) as peer:
        for _ in range(2):
            await peer.send(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await peer.read()
            assert answer.startswith(b"HTTP/1.1 %d" % status)
            assert answer.endswith(b"\r\n\r\n")
            assert b"two" not in answer


@pytest.mark.parametrize(
    "name",
    ["Transfer-Encoding", "upgrade", "Keep-Alive", "TE", "Trailer", "connection"],
)
async def test_headers_about_the_connection_are_the_servers(name: str) -> None:
    """A second framing would end the response elsewhere for a client or a proxy."""
    own = [(name.encode(), b"chunked"), (b"Content-Length", b"3"), (b"X-A", b"chunked")]
    async with Peer(Application(b"one", headers=own)) as peer:
        for _ in range(2):
            await peer.send(GET)
            head, _, body = (await peer.read()).partition(b"\r\n\r\n")
            assert head.count(b"chunked") == 1
            assert body == b"one"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"x name", b"v")], 200),
        ([(b"", b"v")], 200),
        ([(b"x:", b"v")], 200),
        ([(b"x\r\nset-cookie", b"v")], 200),
        ([(b"x", b"a\r\nset-cookie: b")], 200),
        ([(b"x", b"a\nb")], 200),
        ([(b"x", b"a\0b")], 200),
        ([(b"x", 5)], 200),
        ([("x", b"v")], 200),
        ([(None, b"v")], 200),
        ([(b"x",)], 200),
        ([(b"Content-Length", b"5"), (b"content-length", b"6")], 200),
        ([(b"Content-Length", b"-1")], 200),
        ([(b"Content-Length", b"+5")], 200),
        ([(b"Content-Length", b"5, 5")], 200),
        (5, 200),
        ([], 101),
        ([], 100),
        ([], 99999),
        ([], "200"),
        ([], None),
    ],
)
async def test_a_response_that_may_not_be_sent_is_500(
    headers: Any, status: Any
) -> None:
    application = Application(b"one", status=status, headers=headers)
    async with Peer(application) as peer:
        await peer.send(GET)
        answer = await peer.read()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"cookie" not in answer.lower()


@pytest.mark.parametrize("value", [b"close", b"Keep-Alive, Close"])
async def test_an_application_may_close_the_connection_after_its_response(
    value: bytes,
) -> None:
    own = [(b"Connection", value), (b"Content-Length", b"3")]
    async with Peer(Application(b"one", headers=own)) as peer:
        await peer.send(GET)
        answer = await peer.read()
        assert answer.lower().count(b"\r\nconnection: close\r\n") == 1
        assert answer.endswith(b"one")
        assert not peer.is_connected


async def test_requests_in_a_pipeline_are_answered_in_their_order() -> None:
    application = Application(b"x" * 200_000)
    async with Peer(application) as peer:
        body = HEAD + b"Content-Length: 100000\r\n\r\n" + b"y" * 100_000
        await peer.send(body + GET + body)
        received = await peer.read_to(END, count=3)
    assert [len(body) for body in application.bodies] == [100_000, 0, 100_000]
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"x") == 600_000


async def test_http_1_0_gets_its_response_and_the_close() -> None:
    async with Peer(Application(b"x" * 100_000, b"y")) as peer:
        await peer.send(b"GET / HTTP/1.0\r\n\r\n")
        await peer.read_to(b"xy")
        assert not peer.is_connected


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""])
@pytest.mark.parametrize("parts", [1, 20])
async def test_a_client_that_half_closes_gets_the_response_it_reads(
    closing: bytes, parts: int
) -> None:
    """The response that waits for a slow client is no reason to miss its FIN."""
    application = Application(*[b"x" * 50_000] * parts, b"end")
    async with Peer(application) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
        await peer.read(1000)
        await peer.finish_sending()
        await peer.read_to(b"end\r\n" + END, most=40_000, seconds=1)
        assert not peer.is_connected


async def test_a_client_that_half_closes_an_idle_response_has_left() -> None:
    """As with daphne: an application that waits for events learns of it."""
    async with Peer(Owing()) as peer:
        await peer.send(GET)
        await peer.read_to(b"x\r\n")
        await peer.finish_sending()
        assert peer.is_connected
        peer.time.advance(2)
        await peer.settle()
        assert not peer.is_connected


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"Content-Length: 9\r\n\r\nbody"]
)
async def test_a_client_that_half_closes_without_a_request_is_closed(
    sent: bytes,
) -> None:
    async with Peer(Application()) as peer:
        await peer.send(sent)
        await peer.finish_sending()
        assert not peer.is_connected


async def test_a_refused_client_that_half_closes_is_closed() -> None:
    async with Peer(Application()) as peer:
        await peer.send(b"nonsense\r\n\r\n")
        assert (await peer.read()).startswith(b"HTTP/1.1 400")
        await peer.finish_sending()
        assert not peer.is_connected


class Owing:
    """Sends a first part, then nothing until it is told to end."""

    def __init__(self) -> None:
        self.is_to_end = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 300_000, "more_body": True}
        await send(part)
        await self.is_to_end.wait()


@pytest.mark.parametrize(
    ("parts", "received"),
    [
        ([b"one", b"two"], b"onetwo"),
        ([b"onetwo", b""], b"onetwo"),
        ([b"one", b"two", b"HTTP/1.1 200 OK"], None),
        ([b"one", b"twoHTTP/1.1 200 OK"], None),
        ([b"one"], None),
        ([b"one", b"tw"], None),
    ],
)
async def test_a_body_has_the_length_that_it_declares(
    parts: list[bytes], received: bytes | None
) -> None:
    """The next response of the connection would begin elsewhere for the client."""
    application = Application(*parts, headers=[(b"Content-Length", b"6")])
    async with Peer(application) as peer:
        await peer.send(GET)
        assert peer.is_connected is (received is not None)
        if received is not None:
            assert (await peer.read()).endswith(b"\r\n\r\n" + received)


async def return_at_once(scope: Message, receive: Receive, send: Send) -> None:
    await receive()


async def return_early(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})


async def test_an_application_that_returns_without_a_response_is_500() -> None:
    """The client waited for ever, and the request kept its place."""
    async with Peer(return_at_once) as peer:
        await peer.send(GET)
        assert (await peer.read()).startswith(b"HTTP/1.1 500 ")
        assert not peer.server.requests


async def test_a_response_that_its_application_leaves_is_cut_off() -> None:
    async with Peer(return_early) as peer:
        await peer.send(GET)
        assert not peer.is_connected, "the response must not look complete"


async def test_the_request_of_a_cancelled_application_is_500() -> None:
    async with Peer(Silent()) as peer:
        await peer.send(GET)
        (task,) = peer.server.requests
        task.cancel()
        assert (await peer.read()).startswith(b"HTTP/1.1 500 ")


class Silent:
    """Never answers."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()


async def test_the_timeout_of_a_response_leaves_out_the_time_of_the_client() -> None:
    """daphne's --http-timeout is for the application."""
    async with Peer(Owing(), http_timeout=30) as peer:
        await peer.send(GET)
        (request,) = peer.channel.requests
        peer.time.advance(31)
        request.check_timeouts()
        await peer.settle()
        assert peer.is_connected
        await peer.read_to(b"x\r\n")
        peer.time.advance(31)
        request.check_timeouts()
        await peer.settle()
        assert not peer.is_connected, "the response must not look complete"


async def test_the_timeout_of_an_application_is_504() -> None:
    """503 would make a proxy ask another node."""
    async with Peer(Silent(), http_timeout=30) as peer:
        await peer.send(GET)
        (request,) = peer.channel.requests
        peer.time.advance(31)
        request.check_timeouts()
        assert (await peer.read()).startswith(b"HTTP/1.1 504")


async def test_a_channel_leaves_no_timer_and_no_cycle() -> None:
    async with Peer(Application(b"x")) as peer:
        await peer.send(GET)
        await peer.read()
        left = [weakref.ref(one) for one in peer.server.http_channels]
        assert len(left) == 1
        await peer.leave()
        assert peer.server.http_channels == set()
    del peer
    gc.collect()
    assert left[0]() is None
