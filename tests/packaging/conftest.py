"""Build the distributions of this repository once for all processes of a run."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.environments import run_python
from tests.packaging.node_packages import NodePackage, make_node_package
from tests.project import ROOT


@dataclass(frozen=True, kw_only=True)
class Built:
    """The wheel and the sdist of one distribution."""

    source: Path
    wheel: Path
    sdist: Path


def build(source: Path, name: str, factory: pytest.TempPathFactory) -> Built:
    """
    Build the sdist, and the wheel from the sdist, in an isolated environment.

    A build writes below its source, so one process of the run builds, and
    the others wait and take what it built.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(folder.glob("*.whl")):
            run_python(
                *("-m", "build", "--outdir", str(folder), str(source)), seconds=180
            )
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Built(source=source, wheel=wheel, sdist=sdist)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """orchestra-websocket."""
    return build(ROOT, "library", tmp_path_factory)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """orchestra-websocket-client."""
    return build(ROOT / "clients" / "python", "client", tmp_path_factory)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> NodePackage:
    """The npm package, beside the packages that it is tested with."""
    return make_node_package(tmp_path_factory)


@pytest.fixture(params=["library", "client"])
def either(request: pytest.FixtureRequest) -> Built:
    """Each of the two distributions."""
    built: Built = request.getfixturevalue(request.param)
    return built
