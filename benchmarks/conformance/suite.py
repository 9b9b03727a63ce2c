"""
Find a CPython 2.7, and install and run the Autobahn test suite with it.

The pip of the current Python installs the suite once, into var/: a CPython 2.7
may lack pip, or the TLS version that PyPI requires. All packages are pure Python
or wheels, so no compiler is needed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT

SUITE_VERSION = "25.10.1"

_SOURCES = (
    f"autobahntestsuite=={SUITE_VERSION}",
    "autobahn==0.10.9",
    "txaio==2.1.0",
)
"""Pure Python packages without wheels, which are unpacked."""

_WHEELS = (
    "Twisted==19.10.0",
    "attrs==21.4.0",
    "cffi==1.15.1",
    "constantly==15.1.0",
    "cryptography==3.3.2",
    "enum34==1.1.10",
    "hyperlink==21.0.0",
    "idna==2.10",
    "incremental==16.10.1",
    "ipaddress==1.0.23",
    "jinja2==2.11.3",
    "linecache2==1.0.0",
    "markupsafe==1.1.1",
    "pyOpenSSL==19.1.0",
    "pyasn1==0.5.1",
    "pyasn1-modules==0.3.0",
    "service-identity==18.1.0",
    "setuptools==44.0.0",
    "six==1.16.0",
    "traceback2==1.4.0",
    "typing==3.10.0.0",
    "ujson==2.0.3",
    "unittest2==1.1.0",
    "zope.interface==4.6.0",
)

_FOLDER = ROOT / "var" / "autobahn"
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
_PROBE = "import sys; print('%d.%d %d' % (sys.version_info[:2] + (sys.maxunicode,)))"
_WIDE_UNICODE = 0x10FFFF
_INSTALL_SECONDS = 600

_HOW_TO_GET_ONE = (
    "the Autobahn test suite runs only on CPython 2.7, which was not found as "
    "python2.7, as python2 or in pyenv. Install it with `pyenv install 2.7.18`, on "
    "Debian 11 with `apt install python2.7`, or name it with --python or PYTHON27"
)


class SuiteMissing(Exception):
    """The suite cannot run here; the text has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """A CPython 2.7."""

    path: str
    abi: str


def find_python(named: str | None = None) -> Python:
    """
    Return a CPython 2.7: the named one, or one on the path or of pyenv.

    Raises:
        SuiteMissing: there is none; the text says how to install one.
    """
    if named:
        found = _probe(named)
        if found is None:
            raise SuiteMissing(f"{named} is not a CPython 2.7")
        return found
    for path in _find_candidates():
        found = _probe(path)
        if found is not None:
            return found
    raise SuiteMissing(_HOW_TO_GET_ONE)


def install(python: Python) -> Path:
    """
    Return the folder of the suite; install it if necessary.

    Raises:
        SuiteMissing: the installation failed; the text is the output of pip.
    """
    pins = "\n".join((*_SOURCES, *_WHEELS, python.abi))
    folder = _FOLDER / hashlib.sha256(pins.encode()).hexdigest()[:12]
    if folder.is_dir():
        return folder
    _FOLDER.mkdir(parents=True, exist_ok=True)
    print("Installing the Autobahn suite, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=_FOLDER) as temporary:
        draft = Path(temporary) / "site"
        _install_wheels(draft, python.abi)
        _unpack_sources(draft, Path(temporary))
        try:
            draft.rename(folder)
        except OSError:
            # Another process installed the same suite first.
            if not folder.is_dir():
                raise
    return folder


def run_cases(
    python: Python, folder: Path, specification: dict[str, Any], *, seconds: float
) -> Iterator[str]:
    """
    Run cases; yield the output lines of the suite.

    The suite is killed after `seconds`.
    """
    runner = Path(__file__).with_name("fuzzing_client.py")
    process = subprocess.Popen(
        [python.path, "-u", str(runner), str(folder), json.dumps(specification)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    deadline = threading.Timer(seconds, process.kill)
    deadline.start()
    try:
        yield from process.stdout or ()
    finally:
        deadline.cancel()
        process.kill()
        process.wait()


def _find_candidates() -> Iterator[str]:
    """Yield paths of a possible CPython 2.7; pyenv's shims may lack a version."""
    if named := os.environ.get("PYTHON27"):
        yield named
    for name in ("python2.7", "python2"):
        if found := shutil.which(name):
            yield found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in sorted(root.glob("versions/2.7*/bin/python2.7"), reverse=True):
        yield str(path)


def _probe(path: str) -> Python | None:
    try:
        done = subprocess.run(
            [path, "-c", _PROBE], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version, _, maximum = done.stdout.strip().partition(" ")
    if done.returncode or version != "2.7":
        return None
    is_wide = int(maximum) == _WIDE_UNICODE
    return Python(path=path, abi="cp27mu" if is_wide else "cp27m")


def _install_wheels(target: Path, abi: str) -> None:
    _run_pip(
        *("install", "--no-deps", "--no-compile", "--ignore-requires-python"),
        *("--target", str(target), "--only-binary=:all:"),
        *("--python-version", "2.7", "--implementation", "cp", "--abi", abi),
        *("--platform", "manylinux2010_x86_64", "--platform", "manylinux1_x86_64"),
        *_WHEELS,
    )


def _unpack_sources(target: Path, temporary: Path) -> None:
    _run_pip(
        *("download", "--no-deps", "--ignore-requires-python", "--no-binary=:all:"),
        *("--dest", str(temporary / "archives"), *_SOURCES),
    )
    for archive in (temporary / "archives").iterdir():
        with tarfile.open(archive) as opened:
            opened.extractall(temporary / "unpacked", filter="data")
        name = archive.name.partition("-")[0]
        package = next((temporary / "unpacked").glob(f"{name}-*/{name}"))
        package.rename(target / name)


def _run_pip(*arguments: str) -> None:
    try:
        subprocess.run(
            [*_PIP, *arguments],
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as exc:
        raise SuiteMissing(f"pip took over {_INSTALL_SECONDS} s") from exc
    except subprocess.CalledProcessError as exc:
        raise SuiteMissing(f"the suite was not installed; pip: {exc.stderr}") from exc
