"""Have the checks say what they found, as tests do."""

import pytest

pytest.register_assert_rewrite(
    "tests.adoption.case",
    "tests.adoption.command_checks",
    "tests.adoption.page_checks",
    "tests.adoption.projects",
    "tests.adoption.socket_checks",
)
