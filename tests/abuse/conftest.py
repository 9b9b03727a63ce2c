"""Share servers among attacks, and print a table of the measurements."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.report import make_table
from connections.testing.waiting import scale
from tests.abuse.attack import Attack
from tests.abuse.corpus import LIMITS
from tests.abuse.report import HEADER, describe, make_rows
from tests.abuse.watch import Arena, Report
from tests.project import ProjectServers

_PATIENCE_SECONDS = 10
_OFFERED_BYTES = 400_000_000

_reports: list[Report] = []


@pytest.fixture(scope="session")
def find_arena(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> Iterator[Callable[[Attack], Arena]]:
    """Return the server for an attack; attacks of equal configuration share one."""
    folder = tmp_path_factory.mktemp("abuse")
    running = ProjectServers(folder, migrated_database)
    arenas: dict[str, Arena] = {}

    def find(attack: Attack) -> Arena:
        config = {**LIMITS, **attack.config}
        key = json.dumps(config)
        if key not in arenas:
            access_log = folder / f"access-{len(arenas)}.log"
            server = running.start(
                command="daphne",
                application="tests.abuse.served.limited:application",
                environment={"DEBUG": ""},
                arguments=(
                    *("--access-log", str(access_log)),
                    *("--application-close-timeout", "2"),
                ),
                config=config,
            )
            arenas[key] = Arena(
                server,
                patience_seconds=scale(_PATIENCE_SECONDS),
                offered_bytes=_OFFERED_BYTES,
                access_log=access_log,
            )
        return arenas[key]

    yield find
    for arena in arenas.values():
        arena.close()
    running.stop_all()


@pytest.fixture
def note_report() -> Callable[[Report], None]:
    """Add a report to the table at the end of the run."""
    return _reports.append


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    if not _reports:
        return
    folder = Path(os.environ.get("ORCHESTRA_VAR") or "var")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "abuse.json"
    place.write_text(json.dumps([describe(one) for one in _reports], indent=2))
    terminalreporter.section(f"under attack; also in {place}")
    terminalreporter.write_line(make_table(HEADER, make_rows(_reports)))
