"""Incidents of the database: it is down, or its disk is full."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from connections.testing import LiveServer, Proxy, Servers, wait_until
from tests.faults.databases import Store
from tests.faults.disks import FileSizeLimit
from tests.incidents.desk import CONFIG, Desk, make_environment, sign_in
from tests.integration.echo import assert_alive, opened
from tests.integration.mail_sink import MailSink


@pytest.fixture
async def mails() -> AsyncIterator[MailSink]:
    async with MailSink() as sink:
        yield sink


def start(servers: Servers, mails: MailSink, **environment: str) -> LiveServer:
    """Start one node that mails its alerts."""
    options: dict[str, Any] = {
        "config": {**CONFIG, "alert_recipients": "[duty@example.com]"},
        "environment": make_environment(
            EMAIL_HOST="127.0.0.1", EMAIL_PORT=str(mails.port), **environment
        ),
    }
    return servers.start(**options)


async def watch_outage(
    incident: str, desk: Desk, mails: MailSink, problem: str
) -> None:
    """Check that the outage is named everywhere, without the database."""
    await desk.wait_named(
        incident,
        dashboard=rf"▲ critical database down since .* UTC, .* node \S+: the database"
        rf" {problem} now 1 node",
        log=rf"Alert database_down firing: 1 node, .*: the database {problem}",
        reasons=rf"degraded .*the database {problem}; records wait in memory",
    )
    await desk.take_pictures("database-down")
    assert f"The database {problem}." in desk.read_dashboard()
    await wait_until(lambda: mails.subjects == ["FIRING: database_down"])
    assert f"the database {problem}" in str(mails.messages[0])
    reasons, metric = desk.run_runbook("database_down")
    assert problem in reasons
    assert "websocket_database_up 0.0" in metric


async def watch_recovery(incident: str, desk: Desk, mails: MailSink) -> None:
    """Check that the return of the database is told, and recorded."""
    await desk.wait_named(
        incident,
        log="Alert database_down resolved",
        alerts=r"resolved +critical +database_down",
    )
    resolved = "RESOLVED: database_down"
    await wait_until(lambda: resolved in mails.subjects)
    assert mails.subjects == ["FIRING: database_down", resolved]


async def test_a_database_that_is_down(
    servers: Servers, postgres_store: Store, mails: MailSink
) -> None:
    assert postgres_store.postgres is not None
    port = postgres_store.postgres.port
    url = postgres_store.environment["DATABASE_URL"]
    direct = servers.make(environment={"DATABASE_URL": url})
    async with Proxy(port) as proxy:
        through = url.replace(f":{port}/", f":{proxy.port}/")
        server = start(servers, mails, DATABASE_URL=through)
        desk = Desk(server=server, session=sign_in(direct))
        async with opened(server, direct.create_token(), 1) as (bystander,):
            await desk.wait_named("before", dashboard="No alert is firing")
            proxy.cut()
            await watch_outage("database down", desk, mails, "does not answer")
            await assert_alive(bystander)
            proxy.mend()
            await watch_recovery("database back", desk, mails)
            await assert_alive(bystander)


async def test_a_full_disk(servers: Servers, mails: MailSink) -> None:
    disk = FileSizeLimit()
    server = start(servers, mails)
    desk = Desk(server=server, session=sign_in(server))
    async with opened(server, server.create_token(), 1) as (bystander,):
        await desk.wait_named("before", dashboard="No alert is firing")
        disk.fill(server)
        # The log is a file of this process too, and takes no lines either.
        await wait_until(lambda: desk.read_reasons().startswith("degraded"))
        await wait_until(lambda: mails.subjects == ["FIRING: database_down"])
        dashboard = r"database down since .*: the database refuses the statement"
        await desk.wait_named("full disk", dashboard=dashboard)
        await desk.take_pictures("full-disk")
        assert "refuses the statement" in str(mails.messages[0])
        reasons, metric = desk.run_runbook("database_down")
        assert "refuses the statement" in reasons
        assert "websocket_database_up 0.0" in metric
        disk.free(server)
        await watch_recovery("disk freed", desk, mails)
        await assert_alive(bystander)
