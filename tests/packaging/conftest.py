"""Build the distributions of this repository once per session."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.environments import run_python
from tests.project import ROOT


@dataclass(frozen=True, kw_only=True)
class Built:
    """The wheel and the sdist of one distribution."""

    source: Path
    wheel: Path
    sdist: Path


def build(source: Path, folder: Path) -> Built:
    """Build the sdist, and the wheel from the sdist, in an isolated environment."""
    run_python("-m", "build", "--outdir", str(folder), str(source), seconds=180)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Built(source=source, wheel=wheel, sdist=sdist)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """orchestra-websocket."""
    return build(ROOT, tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """orchestra-websocket-client."""
    return build(ROOT / "clients" / "python", tmp_path_factory.mktemp("client"))


@pytest.fixture(params=["library", "client"])
def either(request: pytest.FixtureRequest) -> Built:
    """Each of the two distributions."""
    built: Built = request.getfixturevalue(request.param)
    return built
