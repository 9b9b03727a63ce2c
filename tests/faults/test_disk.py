"""Test that a full disk drops no connection and loses no acked entry."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.faults.disks import Disk, FileSizeLimit, may_mount, mounted
from tests.faults.health import read_health, wait_for_status
from tests.integration.echo import QUICK, assert_alive, open_echo, opened, read_rows
from tests.integration.session_client import SessionClient

DISKS = ["file_size", "filesystem"] if may_mount() else ["file_size"]


@pytest.fixture(params=DISKS)
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_database: Path
) -> Iterator[tuple[Disk, Path]]:
    """A disk to fill, and the folder on it with the database."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        found: Disk = FileSizeLimit()
        if request.param == "filesystem":
            found = stack.enter_context(mounted(folder))
        shutil.copy(migrated_database, folder / "db.sqlite3")
        yield found, folder


def start(servers: Servers, folder: Path) -> LiveServer:
    config = {**QUICK, "node__node_timeout_seconds": scale(1)}
    return servers.start(folder=folder, config=config)


async def say(page: SessionClient, *texts: str) -> None:
    for text in texts:
        await page.say({"text": text})
    await page.wait_acked()


async def test_a_full_disk_costs_no_connection_and_no_record(
    servers: Servers, disk: tuple[Disk, Path]
) -> None:
    """
    What is not written is not acked, and can be sent again.

    The process's log cannot be written meanwhile either; then it is killed.
    """
    room, folder = disk
    server = start(servers, folder)
    token = server.create_token()
    page = SessionClient(token)
    try:
        async with opened(server, token, 1) as (bystander,):
            await page.connect(server)
            await say(page, "one", "two")
            room.fill(server)
            unwritten = await page.say({"text": "three"})
            await page.wait(lambda: page.errors)
            assert page.errors[0]["code"] == "unavailable"
            assert unwritten not in page.acked
            await wait_for_status(server, 200, "degraded")
            # Reads continue, including the lookup of a credential.
            for _ in range(3):
                async with open_echo(server, token) as passing:
                    await assert_alive(passing)
                assert read_health(server)[1]["status"] == "degraded"
            await assert_alive(bystander)
            room.free(server)
            await wait_for_status(server, 200, "ok")
            await page.connect(server)
            await page.wait_acked()
            await say(page, "four")
            await page.wait(lambda: page.last_offset == 4)
            assert list(page.texts().values()) == ["one", "two", "three", "four"]
            await assert_alive(bystander)
            # One client reconnected, three came and went, one stayed connected.
            query = "select count(*), count(closed_at) from connections_connection"
            await wait_until(lambda: read_rows(server, query) == [(6, 4)])
            room.fill(server)
            await page.say({"text": "five"})
            await page.wait(lambda: len(page.errors) > 1)
            server.kill()
        room.free(server)
        again = start(servers, folder)
        await page.return_to(again)
        await page.wait_acked()
        await page.wait(lambda: page.last_offset == 5)
        texts = ["one", "two", "three", "four", "five"]
        assert list(page.texts().values()) == texts
    finally:
        await page.cut()
    with contextlib.closing(sqlite3.connect(folder / "db.sqlite3")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
