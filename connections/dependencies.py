"""Check that installed packages still have the names that this project relies on."""

import dis
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from connections.exceptions import IncompatibleDependency


@dataclass(frozen=True, slots=True)
class ForeignName:
    """A name that its package does not document, and so may take away."""

    package: str
    """The distribution, as pip names it."""
    path: str
    """Module and name: "twisted.web.http:HTTPChannel.requestDone"."""

    def exists(self) -> bool:
        """Return whether the installed package has the name."""
        module, _, attributes = self.path.partition(":")
        try:
            owner: object = importlib.import_module(module)
        except ImportError:
            return False
        *parents, name = attributes.split(".")
        for parent in parents:
            owner = getattr(owner, parent, None)
        return hasattr(owner, name) or name in _find_instance_names(owner)


def require_names(names: Iterable[ForeignName]) -> None:
    """
    Check that every name exists.

    Raises:
        IncompatibleDependency: a package lacks some of them.
    """
    missing: dict[str, list[str]] = {}
    for name in names:
        if not name.exists():
            missing.setdefault(name.package, []).append(name.path)
    for package, paths in missing.items():
        raise IncompatibleDependency(package, version(package), paths)


def _find_instance_names(owner: object) -> set[str]:
    """Return the attributes that the methods of a class set on its instances."""
    return {
        step.argval
        for base in getattr(owner, "__mro__", ())
        for function in vars(base).values()
        if inspect.isfunction(function)
        for step in dis.get_instructions(function)
        if step.opname == "STORE_ATTR"
    }
