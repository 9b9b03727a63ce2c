"""Test who may create a token that acts as somebody else."""

from types import SimpleNamespace

import pytest

from connections.actions.permissions import may_act_for


@pytest.mark.parametrize("has_all", [True, False])
def test_a_user_model_without_djangos_permissions_is_asked_for_each(
    has_all: bool,
) -> None:
    """As the full example of a custom user in Django's documentation."""
    asked: list[str] = []

    def has_perm(name: str) -> bool:
        asked.append(name)
        return has_all

    author = SimpleNamespace(pk=1, has_perm=has_perm)
    user = SimpleNamespace(pk=2, is_active=True)
    assert may_act_for(author, user) is has_all
    assert asked == ["connections.impersonate_accesstoken"]
    assert may_act_for(author, author)
