"""Name a person: its clients, its user, and the addresses that are its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Q, QuerySet

from connections.audit import name_author
from connections.models import AccessToken, Connection, ForgetRequest
from connections.net.addresses import name_banned_network, parse_address

_AT_ONCE = 500
"""Values of one condition; SQLite takes some thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A client or a user: its client ids, and the key and name of the user."""

    client_ids: tuple[str, ...]
    user_key: Any = None
    user_name: str = ""
    addresses: tuple[str, ...] = ()
    """Addresses from which no other client has a recorded connection."""

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
            named |= Q(target="address", value__in=sorted(values)[:_AT_ONCE])
        return named

    def is_named_by(self, column: str) -> Q:
        """Return the filter of rows that the user wrote, by name."""
        return Q(**{column: self.user_name}) if self.user_name else Q(pk__in=())


def name_bans(address: str) -> set[str]:
    """Return the values of bans and close requests that name one address."""
    length = "128" if ":" in address else "32"
    return {address, f"{address}/{length}", name_banned_network(address)}


def find_client(client_id: str) -> Person:
    """Return the person that is one client, without a user."""
    return _with_addresses(Person(client_ids=(client_id,)))


def find_user_person(user: Any) -> Person:
    """Return a user with the client ids that no other user has."""
    names = {f"user:{user.pk}"}
    for model in (Connection, AccessToken):
        rows = model._default_manager.filter(user=user.pk)
        names.update(_list_clients(rows))
    for model in (Connection, AccessToken):
        rows = model._default_manager.filter(client_id__in=names)
        others = rows.exclude(user=user.pk).exclude(user=None)
        names.difference_update(_list_clients(others))
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
    """Add the single addresses from which only this person has connected."""
    rows = Connection.objects.filter(person.owns())
    texts = set(rows.order_by().values_list("address", flat=True).distinct())
    own = {text for text in texts if parse_address(text) is not None}
    for some in _batched(sorted(own)):
        same = Connection.objects.filter(address__in=some).exclude(person.owns())
        own -= set(same.order_by().values_list("address", flat=True).distinct())
    return replace(person, addresses=tuple(sorted(own)))


def _list_clients(rows: QuerySet[Any]) -> Iterable[str]:
    return rows.order_by().values_list("client_id", flat=True).distinct()


def _batched(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _AT_ONCE):
        yield texts[start : start + _AT_ONCE]
