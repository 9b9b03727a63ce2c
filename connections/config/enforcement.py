"""The section `enforce:`, which names the limits that are observed, not enforced."""

from collections.abc import Mapping
from dataclasses import dataclass

from connections.config.fields import Listed, Problem, option
from connections.config.kinds import Choice

ENFORCE, OBSERVE = "enforce", "observe"

LIMITS = ("clients", "total", "rate", "idle")
"""The limits that may be observed on all routes."""

ROUTE_LIMITS = (*LIMITS, "origin", "expiry", "size")
"""The limits that may be observed on one route."""

FAR_OVER = 10
"""An excess of so many times a limit is never let pass."""

_MODE = Choice((ENFORCE, OBSERVE))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteModes:
    """The limits of one route whose mode differs from that of all routes."""

    route: str
    modes: tuple[tuple[str, str], ...]

    def apply_to(self, observed: set[str]) -> None:
        """Change the set of observed limits to that of the route."""
        for limit, mode in self.modes:
            if mode == OBSERVE:
                observed.add(limit)
            else:
                observed.discard(limit)


class Routes(Listed):
    """A mapping of routes to the modes of their limits."""

    @property
    def allowed(self) -> str:
        return f"a mapping of routes to modes of {', '.join(ROUTE_LIMITS)}"

    def read(
        self, raw: object, path: str, problems: list[Problem]
    ) -> tuple[RouteModes, ...]:
        if raw is None:
            return ()
        if not isinstance(raw, Mapping):
            problems.append(Problem(path, raw, self.allowed))
            return ()
        return tuple(
            _read_route(route, modes, path, problems) for route, modes in raw.items()
        )

    def format(self, value: object) -> str:
        return str(
            {one.route: dict(one.modes) for one in value}
            if isinstance(value, tuple)
            else value
        )


def _read_route(
    route: object, raw: object, path: str, problems: list[Problem]
) -> RouteModes:
    """Return the modes of one route; wrong ones become problems."""
    place = f"{path}.{route}"
    modes: dict[str, str] = {}
    if not isinstance(route, str):
        problems.append(Problem(place, route, "the pattern of a route, as a text"))
    elif not isinstance(raw, Mapping):
        allowed = f"a mapping of {', '.join(ROUTE_LIMITS)} to {_MODE.allowed}"
        problems.append(Problem(place, raw, allowed))
    else:
        for limit, mode in raw.items():
            if limit not in ROUTE_LIMITS:
                allowed = f"an unknown limit; known: {', '.join(ROUTE_LIMITS)}"
                problems.append(Problem(f"{place}.{limit}", mode, allowed))
                continue
            try:
                modes[limit] = _MODE.parse(mode)
            except ValueError as exc:
                problems.append(Problem(f"{place}.{limit}", mode, str(exc)))
    return RouteModes(route=str(route), modes=tuple(modes.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforceConfig:
    clients: str = option(
        _MODE, ENFORCE, "max_connections_per_client: act on it, or count only"
    )
    total: str = option(
        _MODE, ENFORCE, "max_total_connections: act on it, or count only"
    )
    rate: str = option(_MODE, ENFORCE, "rate_limit: act on it, or count only")
    idle: str = option(_MODE, ENFORCE, "idle_timeout_seconds: act on it, or count only")
    routes: tuple[RouteModes, ...] = option(
        Routes(),
        {},
        "other modes for single routes, by pattern; there also origin, expiry and size",
    )

    def find_observed(self, route: str) -> frozenset[str]:
        """Return the limits that are observed on a route; equal sets are one object."""
        observed = {limit for limit in LIMITS if getattr(self, limit) == OBSERVE}
        for one in self.routes:
            if one.route == route:
                one.apply_to(observed)
        found = frozenset(observed)
        return _shared.setdefault(found, found)

    def observes(self, limit: str) -> bool:
        """Return True if a limit is observed on any route."""
        return limit in self.find_observed("") or any(
            (limit, OBSERVE) in one.modes for one in self.routes
        )

    def describe(self) -> str:
        """Return what is observed, as text; empty if every limit is enforced."""
        parts = [", ".join(sorted(self.find_observed("")))]
        for one in self.routes:
            limits = sorted(limit for limit, mode in one.modes if mode == OBSERVE)
            parts += [f"{', '.join(limits)} on {one.route}"] if limits else []
        return "; ".join(filter(None, parts))


_shared: dict[frozenset[str], frozenset[str]] = {}
