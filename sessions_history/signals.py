"""Send a Django signal about sessions, as connections.signals does."""

from connections.signals import BatchSignal
from sessions_history.models import Session

session_created = BatchSignal(Session, "sessions")
"""`sessions`: rows of sessions that their first entry inserted."""
