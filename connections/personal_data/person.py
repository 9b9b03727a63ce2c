"""Name a person: its clients, its user, and the addresses that are its own."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Model, Q, QuerySet

from connections.audit import name_author
from connections.models import AccessToken, Connection, ForgetRequest
from connections.net.addresses import group_address, parse_address

_AT_ONCE = 500
"""Values of one condition; SQLite takes some thousand."""

_ALTERNATIVES = 100
"""Alternatives of one condition; SQLite takes less than a thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A client or a user: its client ids, and the key and name of the user."""

    client_ids: tuple[str, ...]
    user_key: Any = None
    user_name: str = ""
    addresses: tuple[str, ...] = ()
    """Addresses, and networks of the size of an IPv6 client's, from which no other
    client has a recorded connection."""

    @property
    def names(self) -> tuple[str, ...]:
        """The texts that name the person, the longest first."""
        names = {*self.client_ids, self.user_name, *self.addresses} - {""}
        return tuple(sorted(names, key=len, reverse=True))

    def owns(self) -> Q:
        """Return the filter of rows with `client_id` and `user`."""
        owned = Q(client_id__in=self.client_ids)
        return owned if self.user_key is None else owned | Q(user=self.user_key)

    def is_client(self) -> Q:
        """Return the filter of rows with `client_id` alone."""
        return Q(client_id__in=self.client_ids)

    def is_target(self) -> Q:
        """Return the filter of rows with `target` and `value`."""
        named = Q(target="client", value__in=self.client_ids)
        if self.user_key is not None:
            named |= Q(target="user", value=str(self.user_key))
        if self.addresses:
            values = {one for text in self.addresses for one in name_bans(text)}
            named |= Q(target="address", value__in=values)
        return named

    def is_named_by(self, column: str) -> Q:
        """Return the filter of rows that the user wrote, by name."""
        return Q(**{column: self.user_name}) if self.user_name else Q(pk__in=())


_client_sources: list[type[Model]] = [Connection, AccessToken]


def add_client_source(model: type[Model]) -> None:
    """
    Add a model whose rows connect client ids with users; called when an app is ready.

    It has the columns `client_id` and `user`.
    """
    _client_sources.append(model)


def name_bans(address: str) -> set[str]:
    """Return the values of bans and close requests that name an address or network."""
    if "/" in address:
        return {address}
    length = "128" if ":" in address else "32"
    return {address, f"{address}/{length}"}


def find_client(client_id: str) -> Person:
    """Return the person that is one client, without a user."""
    return _with_addresses(Person(client_ids=(client_id,)))


def find_user_person(user: Any) -> Person:
    """Return a user with the client ids that no other user has."""
    names = {f"user:{user.pk}"}
    for rows in _list_sources():
        names.update(_list_clients(rows.filter(user=user.pk).exclude(client_id="")))
    for rows in _list_sources():
        named = rows.filter(client_id__in=names)
        names.difference_update(
            _list_clients(named.exclude(user=user.pk).exclude(user=None))
        )
    return _with_addresses(
        Person(
            client_ids=tuple(sorted(names)),
            user_key=user.pk,
            user_name=name_author(user),
        )
    )


def read_person(request: ForgetRequest) -> Person:
    """Return the person of a request to forget."""
    return Person(
        client_ids=tuple(request.client_ids),
        user_key=request.user_key or None,
        user_name=request.user_name,
        addresses=tuple(request.addresses),
    )


def _with_addresses(person: Person) -> Person:
    """Add the addresses and networks from which only this person has connected."""
    rows = Connection.objects.filter(person.owns())
    own = {text for text in _list_addresses(rows) if parse_address(text) is not None}
    others = Connection.objects.exclude(person.owns())
    for some in _batched(sorted(own), _AT_ONCE):
        own.difference_update(_list_addresses(others.filter(address__in=some)))
    networks = {group_address(text) for text in own if ":" in text}
    networks -= _find_shared(networks, others)
    return replace(person, addresses=tuple(sorted(own | networks)))


def _find_shared(networks: Collection[str], others: QuerySet[Connection]) -> set[str]:
    """Return the networks, each an IPv6 /64, that have addresses of others."""
    shared = set[str]()
    for some in _batched(sorted(networks), _ALTERNATIVES):
        condition = Q()
        for network in some:
            # All groups up to the first zero, which may be shortened.
            start = network.partition("::")[0].partition(":0")[0]
            condition |= Q(address__startswith=f"{start}:")
        found = _list_addresses(others.filter(condition))
        shared.update(map(group_address, found))
    return shared


def _list_addresses(rows: QuerySet[Connection]) -> Iterable[str]:
    return rows.order_by().values_list("address", flat=True).distinct()


def _list_sources() -> Iterator[QuerySet[Any]]:
    """Yield the rows that connect client ids with users."""
    for model in _client_sources:
        manager: Any = model._default_manager
        yield manager.all()


def _list_clients(rows: QuerySet[Any]) -> Iterable[str]:
    return rows.order_by().values_list("client_id", flat=True).distinct()


def _batched(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
