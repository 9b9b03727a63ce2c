"""Clients that each misbehave in one way, on real sockets."""

import asyncio
import contextlib
import time
from typing import Any, Self

from connections.testing.raw_client import (
    PING,
    PONG,
    RESET,
    Frame,
    RawClient,
    build_frame,
)
from connections.testing.waiting import scale

_SMALL_BYTES = 4096
_KEPT_FRAMES = 1000
_READS_PER_SECOND = 20


class SlowClient(RawClient):
    """
    Reads `bytes_per_second`, or nothing with 0.

    Its receive buffer is small, so that the server's buffers fill soon.
    """

    _reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        *headers: str,
        source: str | None = None,
        receive_bytes: int | None = _SMALL_BYTES,
        bytes_per_second: int = 0,
    ) -> Self:
        """Open a WebSocket as RawClient.open() does, and read slowly."""
        client = await super().open(
            port, path, *headers, source=source, receive_bytes=receive_bytes
        )
        if bytes_per_second:
            client._reading = asyncio.create_task(client._trickle(bytes_per_second))
        return client

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        super().close()

    async def _trickle(self, bytes_per_second: int) -> None:
        size = max(1, bytes_per_second // _READS_PER_SECOND)
        with contextlib.suppress(OSError):
            while True:
                # The kernel may give less receive buffer than was asked for.
                taken = await self.read_some(size)
                if not taken:
                    return
                await asyncio.sleep(len(taken) / bytes_per_second)


class AttentiveClient(RawClient):
    """
    Reads all the time and answers pings, as a client library does.

    read_frame() returns the frames except pings. The last thousand unread frames
    are kept.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._reading: asyncio.Task[bytes] | None = None

    @classmethod
    async def open(cls, *args: Any, **kwargs: Any) -> Self:
        """Open a WebSocket as RawClient.open() does, and start reading."""
        client = await super().open(*args, **kwargs)
        client._reading = asyncio.create_task(client._read())
        return client

    async def read_frame(self, seconds: float | None = 10) -> Frame:
        async with asyncio.timeout(scale(seconds)):
            frame = await self._frames.get()
        if frame is None:
            self._frames.put_nowait(None)
            raise ConnectionError("closed by the server")
        return frame

    async def read_end(self, seconds: float = 10) -> bytes:
        """Wait until the server has closed; return RESET, or nothing."""
        if self._reading is None:
            return await super().read_end(seconds)
        async with asyncio.timeout(scale(seconds)):
            return await asyncio.shield(self._reading)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        super().close()

    async def _read(self) -> bytes:
        try:
            while True:
                frame = await super().read_frame(seconds=None)
                if frame.opcode == PING:
                    await self.send(build_frame(PONG, frame.payload))
                else:
                    self._keep(frame)
        except OSError as exc:
            return RESET if isinstance(exc, ConnectionResetError) else b""
        finally:
            self._keep(None)

    def _keep(self, frame: Frame | None) -> None:
        if self._frames.qsize() >= _KEPT_FRAMES:
            self._frames.get_nowait()
        self._frames.put_nowait(frame)


class DeadPeer(AttentiveClient):
    """
    After vanish() it neither reads nor answers pings, and sends no FIN.

    A closed laptop or a phone in a tunnel behaves like this.
    """

    async def vanish(self) -> None:
        """Stop reading and answering."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])


class Flooder(AttentiveClient):
    """Sends frames as fast as the server takes them."""

    async def flood(
        self,
        *frames: bytes,
        per_second: float | None = None,
        seconds: float = 10,
    ) -> int:
        """
        Send frames in turn until the server closes, or for some seconds.

        Frames are bytes as build_frame() makes them, valid or not. They are sent as
        fast as the server takes them, or `per_second`. Returns how many were sent.
        """
        sent = 0
        began = time.monotonic()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(scale(seconds)):
                while self.close_frame is None:
                    await self.send(frames[sent % len(frames)])
                    sent += 1
                    behind = 0.0
                    if per_second is not None:
                        behind = began + sent / per_second - time.monotonic()
                    # Other tasks get their turn even without a rate.
                    await asyncio.sleep(max(0.0, behind))
        return sent
