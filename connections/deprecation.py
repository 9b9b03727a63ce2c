"""Keep renamed names importable, with a DeprecationWarning, until 0.3."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module


def import_renamed(module: str, renamed: Mapping[str, str]) -> Callable[[str], object]:
    """
    Return the `__getattr__` of a module whose names are others now.

    `renamed` maps each old name to the dotted path of what it is called now
    (PEP 562).
    """

    def get(name: str) -> object:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path = renamed[name]
        warn_renamed(f"{module}.{name}", path, stacklevel=3)
        target, _, attribute = path.rpartition(".")
        found: object = getattr(import_module(target), attribute)
        return found

    return get


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that a name goes with 0.3."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with 0.3",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )
