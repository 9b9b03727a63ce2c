"""
Cut a peer off without FIN, reset or acknowledgement.

    unshare --map-root-user --net python -m tests.abuse.black_hole FOLDER

FOLDER holds a migrated database. The network is one of its own, so that nobody
else's is spoilt. Prints code and reason of the peer's record.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

from connections.testing import TEXT, AttentiveClient, build_frame, wait_until
from connections.testing.waiting import scale
from tests.abuse.corpus import LIMITS
from tests.abuse.records import read_close_reasons
from tests.project import make_server

_QUICK = {"ping_interval_seconds": 1, "ping_timeout_seconds": scale(0.5)}


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


async def _main(folder: Path) -> None:
    _run("ip link set lo up")
    server = make_server(
        folder,
        command="daphne",
        application="tests.abuse.served.limited:application",
        config={**LIMITS, **_QUICK},
    ).start()
    try:
        origin = f"Origin: http://127.0.0.1:{server.port}"
        client = await AttentiveClient.open(server.port, "/echo/", origin)
        await client.send(build_frame(TEXT, b"x"))
        await client.read_frame()
        _run("tc qdisc add dev lo root blackhole")
        print(
            *await wait_until(lambda: read_close_reasons(server, "127.0.0.1") - {" "})
        )
    finally:
        server.stop()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
