"""Read what one logger said, whatever others said meanwhile.

A garbage collection, or a thread of an earlier test, may log within any test.
"""

import logging

import pytest


def find_records(
    caplog: pytest.LogCaptureFixture, logger: str
) -> list[logging.LogRecord]:
    """Return the records of one logger."""
    return [one for one in caplog.records if one.name == logger]
