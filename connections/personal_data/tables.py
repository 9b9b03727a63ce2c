"""Keep the one list of tables with personal data, which all apps add to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, Q, QuerySet

from connections.models.alias import atomic
from connections.personal_data.person import Person

Find = Callable[[Person], QuerySet[Any]]
Erase = Callable[[QuerySet[Any], Person, str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalTable:
    """One table: how its rows of a person are found, exported and erased."""

    name: str
    model: type[Model]
    find: Find
    erase: Erase
    """Deletes some rows, or writes a pseudonym into them, so that find() or the
    condition `erased` leaves them out."""

    count: Callable[[Person], int] | None = None
    """Counts the rows where find() returns some of them alone."""

    erased: Q | None = None
    """The condition of rows that find() returns also after they were erased."""

    hidden: tuple[str, ...] = ()
    """Columns that are not exported, such as the hash of a token."""

    is_exported: bool = True
    is_of_all: bool = False
    """True if its rows are about everybody, and are made anew."""

    def find_left(self, person: Person) -> QuerySet[Any]:
        """Return the rows that have to be erased."""
        rows = self.find(person)
        return rows if self.erased is None else rows.exclude(self.erased)

    def count_left(self, person: Person) -> int:
        """Return how many rows have to be erased."""
        count = self.count or (lambda one: self.find_left(one).count())
        return count(person)

    def erase_some(self, person: Person, pseudonym: str, batch_size: int) -> int:
        """Erase at most batch_size rows in one short transaction; return how many."""
        left = self.find_left(person).order_by()
        keys = list(left.values_list("pk", flat=True)[:batch_size])
        if keys:
            manager: Any = self.model._default_manager
            with atomic():
                self.erase(manager.filter(pk__in=keys), person, pseudonym)
        return len(keys)


_tables: dict[str, PersonalTable] = {}


def add_personal_table(table: PersonalTable) -> None:
    """Add a table, after those that refer to it; called when an app is ready."""
    _tables[table.name] = table


def get_personal_tables() -> Iterator[PersonalTable]:
    """Return the tables, in the order in which they are erased."""
    return iter(list(_tables.values()))


def export(person: Person) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a person by table, without the hashes of credentials."""
    found = {}
    for table in get_personal_tables():
        if table.is_exported:
            rows = table.find(person)
            columns = [
                field.attname
                for field in rows.model._meta.concrete_fields
                if field.name not in table.hidden
            ]
            found[table.name] = list(rows.values(*columns))
    return found


def count(person: Person) -> dict[str, int]:
    """Return how many rows of each table would be erased."""
    return {
        one.name: one.count_left(person)
        for one in get_personal_tables()
        if not one.is_of_all
    }


def delete(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
    """Delete rows, with those that depend on them."""
    rows.delete()
