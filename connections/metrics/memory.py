"""Measure the memory of this process."""

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def read_rss_bytes() -> int:
    """Return the resident memory (proc(5), statm); 0 where there is no /proc."""
    try:
        pages = _STATM.read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
