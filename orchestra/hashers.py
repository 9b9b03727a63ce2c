"""Hash passwords on few threads of their own, which yield to all other work."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher

_NICENESS = 10
"""Of these threads, on Linux: the event loop and the database go first."""


def _yield_to_others() -> None:
    """Lower the priority of this thread (setpriority(2): Linux has one for each)."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


_threads = ThreadPoolExecutor(os.cpu_count(), "password-hash", _yield_to_others)


class OwnThreads:
    """
    A password hasher whose work runs on as many threads as there are cores.

    A crowd that signs in thus waits for itself: the threads of requests, each with
    a connection to the database, stay idle, and the event loop keeps its share.
    """

    def encode(self, *args: Any, **kwargs: Any) -> str:
        """Hash a password; raises what the hasher raises."""
        hasher: Any = super()
        encoded: str = _threads.submit(hasher.encode, *args, **kwargs).result()
        return encoded


class OwnThreadsPBKDF2PasswordHasher(OwnThreads, PBKDF2PasswordHasher):
    """Django's PBKDF2; its hashes are the same."""
