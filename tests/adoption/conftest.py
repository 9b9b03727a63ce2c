"""Have the checks say what they found, as tests do."""

import pytest

pytest.register_assert_rewrite("tests.adoption.checks", "tests.adoption.projects")
