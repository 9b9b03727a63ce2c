"""The version of this package, as it is installed or checked out."""

from importlib.metadata import PackageNotFoundError, version


def read_version() -> str:
    """Return the installed version, or a word for a checkout."""
    try:
        return version("orchestra-websocket")
    except PackageNotFoundError:
        return "checkout"


VERSION = read_version()
