"""Read the memory and CPU use of a process and its file limit from /proc."""

import os
import resource
import socket
from pathlib import Path


def read_cpu_seconds(pid: int, *, thread: int | None = None) -> float:
    """
    Return the CPU seconds of a process (proc(5), stat), ended threads included.

    With `thread`, return those of one thread; the main thread has the id of
    the process.
    """
    place = f"/proc/{pid}/task/{thread}" if thread else f"/proc/{pid}"
    fields = Path(place, "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_memory_kib(pid: int) -> int:
    """
    Return a process's proportional set size (proc(5), smaps_rollup).

    Raises:
        OSError: the process does not exist, or belongs to another user.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"no Pss of process {pid}")


def read_available_kib() -> int:
    """Return the available memory of the machine (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    raise OSError("no MemAvailable")


_given_ports: set[int] = set()


def free_port() -> int:
    """Return a free port of 127.0.0.1 that this process was not given before."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def allow_many_files() -> int:
    """Raise the file limit of this process and its children to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
