"""Read the memory and CPU use of a process and its file limit from /proc."""

import os
import resource
import socket
from pathlib import Path


def read_cpu_seconds(pid: int, *, thread: int | None = None) -> float:
    """
    Return the CPU time of a process (proc(5), stat), ended threads included.

    With a thread, that of it alone; the first has the process's own id.
    """
    place = f"/proc/{pid}/task/{thread}" if thread else f"/proc/{pid}"
    fields = Path(place, "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_memory_kib(pid: int) -> int:
    """
    Return a process's proportional set size: what it adds to the machine's use.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"no Pss of process {pid}")


def read_available_kib() -> int:
    """Return the memory that the machine can still give (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    raise OSError("no MemAvailable")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def allow_many_files() -> int:
    """Let this process and those it starts open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
