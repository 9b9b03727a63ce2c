"""Serve the tree that deploy/Dockerfile copies, as the image does."""

import urllib.request
from collections.abc import Iterator

import pytest

from connections.testing.waiting import scale
from tests.integration.image import Image
from tests.project import ROOT

SETTINGS = {"SECRET_KEY": "of-the-image", "ALLOWED_HOSTS": "127.0.0.1"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def port(image: Image) -> Iterator[int]:
    """The port of a node that runs from the tree."""
    image.run(["python", "manage.py", "migrate", "--verbosity", "0"], **SETTINGS)
    with image.serve(**SETTINGS) as port:
        yield port


def test_the_image_serves_every_static_file(port: int) -> None:
    folders = [ROOT / name / "static" for name in ("connections", "orchestra")]
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert len(files) > 10
    served = {name: read(port, f"/static/{name}") for name in files}
    assert [name for name in files if served[name] != files[name]] == []
    assert b"body" in read(port, "/static/admin/css/base.css")


def test_the_image_writes_nothing_beside_its_volume(image: Image, port: int) -> None:
    """Compose and Kubernetes mount the tree read-only."""
    before = image.list_files()
    assert b"csrfmiddlewaretoken" in read(port, "/sign-in/")
    assert b"csrfmiddlewaretoken" in read(port, "/admin/login/")
    assert image.list_files() == before
    assert not [name for name in before if name.endswith(".pyc")]


def test_the_health_check_of_the_image_passes(image: Image, port: int) -> None:
    command = [one.replace(":8000/", f":{port}/") for one in image.health_check]
    assert command != image.health_check
    image.run(command)


def read(port: int, path: str) -> bytes:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}{path}", timeout=scale(20)
    ) as page:
        content: bytes = page.read()
        return content
