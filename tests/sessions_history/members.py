"""Sessions with members, for several test modules."""

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from sessions_history import members
from tests.sessions_history.appends import make_session


async def add_members(**roles: User) -> str:
    """Make a session of alice with members by their roles; return its id."""

    def add() -> str:
        session_id = make_session()
        for role, user in roles.items():
            _, token = members.invite(session_id, role)
            members.redeem(token, user)
        return session_id

    return await sync_to_async(add)()
