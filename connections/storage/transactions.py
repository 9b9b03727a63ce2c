"""Keep the transactions of a project's requests away from views of this package."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections, transaction

View = TypeVar("View", bound=Callable[..., Any])


def begin_no_transaction(view: View) -> View:
    """
    Let a view run without a transaction, whichever database has ATOMIC_REQUESTS.

    Django's own decorator concerns one database, and Django refuses to run an
    async view in a transaction.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view
