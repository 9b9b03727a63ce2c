"""Count the cores that workers can use."""

import contextlib
import math
import os
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""The limit of a container: a quota and a period, or `max` (cgroups(7), version 2)."""


def count_cores(limit: Path = CPU_LIMIT) -> int:
    """Return the cores that this process may use, at most those of its container."""
    cores = len(os.sched_getaffinity(0))
    # There is no such file outside of a container, and no number without a limit.
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, limit.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores
