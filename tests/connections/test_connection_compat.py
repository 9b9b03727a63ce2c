"""The undocumented names of Channels that consumers rely on: one test for each."""

import pytest

from connections.connection import compat
from connections.dependencies import ForeignName


@pytest.mark.parametrize("name", compat.REQUIRED_NAMES, ids=lambda name: name.path)
def test_channels_has_the_name(name: ForeignName) -> None:
    assert name.exists(), (
        f"channels no longer has {name.path}: adapt connections/connection/compat.py,"
        " or bound the version in pyproject.toml"
    )


def test_the_type_of_a_message_names_a_method() -> None:
    assert compat.get_handler_name({"type": "chat.message"}) == "chat_message"


@pytest.mark.parametrize("message", [{}, {"type": "_private"}])
def test_a_type_that_names_no_method_is_refused(message: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        compat.get_handler_name(message)
