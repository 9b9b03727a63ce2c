"""Delete the failed sign-ins of one person."""

from django.db.models import QuerySet

from connections.personal_data.person import Person
from connections.personal_data.tables import PersonalTable, add_personal_table, delete
from connections.privacy import digest_address
from orchestra.models import FailedSignIn
from orchestra.sign_in import digest_username


def register() -> None:
    """Register the table of this app; called once, when the app is ready."""
    add_personal_table(
        PersonalTable(
            name="failed_sign_ins",
            model=FailedSignIn,
            find=_find,
            erase=delete,
            hidden=("user_digest",),
        )
    )


def _find(person: Person) -> QuerySet[FailedSignIn]:
    addresses = [digest_address(one) for one in person.addresses]
    if not person.user_name:
        return FailedSignIn.objects.filter(address__in=addresses)
    digest = digest_username(person.user_name)
    own = FailedSignIn.objects.filter(user_digest=digest)
    return own | FailedSignIn.objects.filter(address__in=addresses)
