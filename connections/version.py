"""Read the version of the installed package."""

from importlib.metadata import PackageNotFoundError, version


def read_version() -> str:
    """Return the installed version, or "checkout" without one."""
    try:
        return version("orchestra-websocket")
    except PackageNotFoundError:
        return "checkout"


VERSION = read_version()
