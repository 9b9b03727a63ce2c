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
    """An in-memory file system that one file fills to the last block."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, server: LiveServer) -> None:
        """Fill the file system: writes fail with ENOSPC."""
        with (
            self._filler.open("ab", buffering=0) as filler,
            contextlib.suppress(OSError),
        ):
            while True:
                filler.write(bytes(_BLOCK))

    def free(self, server: LiveServer) -> None:
        """Remove the filler."""
        self._filler.unlink()


class FileSizeLimit:
    """A limit that stops a process's files from growing; needs no privilege."""

    def fill(self, server: LiveServer) -> None:
        """Set the limit to one byte: writes fail with EFBIG."""
        self._limit(server, 1)

    def free(self, server: LiveServer) -> None:
        """Remove the limit."""
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: LiveServer, size_bytes: int) -> None:
        if server.is_running:
            unlimited = resource.RLIM_INFINITY
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size_bytes, unlimited))


Disk = SmallFilesystem | FileSizeLimit


def may_mount() -> bool:
    """Return True if a file system can be mounted here."""
    return os.geteuid() == 0 and _mount(Path("/mnt"), is_trial=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[SmallFilesystem]:
    """Mount a small file system on an empty folder."""
    if not _mount(folder):
        raise OSError(f"nothing can be mounted on {folder}")
    try:
        yield SmallFilesystem(folder)
    finally:
        # Lazily: processes that still use it are about to end.
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(folder: Path, *, is_trial: bool = False) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    if is_trial:
        # A mount namespace of its own removes the mount at its end.
        command = ["unshare", "--mount", *command]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
