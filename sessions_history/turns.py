"""Let the sessions of one connection send one after the other."""

from connections.connection.lock import FifoLock


class Turns(FifoLock):
    """
    The turns of one connection's sessions, and the replies that wait in all of them.

    A session reads, makes and sends its entries within its turn. So a client that
    reads slowly costs the memory of one session, however many are attached.
    """

    __slots__ = ("waiting_replies",)

    def __init__(self) -> None:
        super().__init__()
        self.waiting_replies = 0

    async def __aenter__(self) -> None:
        if not self.acquire_nowait():
            await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()
