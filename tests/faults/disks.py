"""Fill a disk: a small file system, or a limit on the size of files."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

from connections.testing import LiveServer

_BLOCK = 4096
_SIZE = "8m"


class SmallFilesystem:
    """A file system in memory, filled up with one file to its last block."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, server: LiveServer) -> None:
        """Leave no room: from now on ENOSPC."""
        with (
            self._filler.open("ab", buffering=0) as filler,
            contextlib.suppress(OSError),
        ):
            while True:
                filler.write(bytes(_BLOCK))

    def free(self, server: LiveServer) -> None:
        """Make room again."""
        self._filler.unlink()


class FileSizeLimit:
    """No file of a process may grow any more: what anybody may do to a process."""

    def fill(self, server: LiveServer) -> None:
        """Allow nothing beyond the first byte: from now on EFBIG."""
        self._limit(server, 1)

    def free(self, server: LiveServer) -> None:
        """Allow everything again."""
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: LiveServer, size_bytes: int) -> None:
        if server.is_running:
            unlimited = resource.RLIM_INFINITY
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size_bytes, unlimited))


Disk = SmallFilesystem | FileSizeLimit


def may_mount() -> bool:
    """Tell whether a file system can be mounted here."""
    return os.geteuid() == 0 and _mount(Path("/mnt"), is_trial=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[SmallFilesystem]:
    """A small file system on an empty folder."""
    if not _mount(folder):
        raise OSError(f"nothing can be mounted on {folder}")
    try:
        yield SmallFilesystem(folder)
    finally:
        # Lazily: whoever is still in it is about to end.
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(folder: Path, *, is_trial: bool = False) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    if is_trial:
        # In a name space of its own, which takes the mount with it.
        command = ["unshare", "--mount", *command]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
