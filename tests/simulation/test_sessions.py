"""Test the whole stack of sessions with clients, faults and time travel at random."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Sessions
from tests.simulation.pages import Broken

pytestmark = pytest.mark.django_db(transaction=True)

_SETTINGS = settings(
    stateful_step_count=40,
    phases=(Phase.generate,),
    database=None,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def run(request: pytest.FixtureRequest, examples: int) -> None:
    """Run the machine with a seed, for so many examples or those of the option."""
    examples = request.config.getoption("--simulation-examples") or examples
    seed(request.config.getoption("--simulation-seed"))(Sessions)
    chosen = settings(_SETTINGS, max_examples=examples)
    try:
        with Sessions.clock.installed():
            run_state_machine_as_test(Sessions, settings=chosen)
    except Flaky as exc:
        # Threads and random ids make a second run of an example differ.
        raise Broken(Sessions.finding) from exc


@pytest.mark.slow
def test_all_clients_agree_with_the_log_whatever_happens(
    request: pytest.FixtureRequest,
) -> None:
    """Two nodes are killed, cut off and restored from backups at random."""
    run(request, 8)


@pytest.mark.long
@pytest.mark.timeout(2000)
def test_all_clients_agree_for_a_long_time(request: pytest.FixtureRequest) -> None:
    run(request, 600)
