"""Test that the checkers find some planted flaws; tests.faults.planted has all."""

import pytest

from connections.testing.waiting import scale
from tests.faults.flaws import Flaw
from tests.faults.planted import FLAWS, find
from tests.project import ROOT


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=list(FLAWS))
def test_each_flaw_has_its_place(flaw: Flaw) -> None:
    assert (ROOT / flaw.path).read_text().count(flaw.right) == 1


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "name", ["keep-has-room-for-all", "postgresql-keeps-all-that-woke"]
)
def test_a_slot_taken_again_over_the_limit_is_found(name: str) -> None:
    """A busy machine does less in a run, so a longer run follows."""
    flaw = FLAWS[name]
    is_found, output = find(flaw, seconds=scale(4), seed=1)
    if not is_found:
        is_found, output = find(flaw, seconds=scale(12), seed=2)
    assert is_found, output


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["keys-are-trimmed-with-their-entries", "an-attach-ignores-the-epoch"]
)
def test_a_flaw_of_sessions_is_found(name: str) -> None:
    is_found, output = find(FLAWS[name], examples=25, seed=1)
    assert is_found, output
