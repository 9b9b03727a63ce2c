"""The names that sessions_history.responders had before 0.2."""

from connections.deprecation import import_renamed

__getattr__ = import_renamed(
    __name__,
    {
        "Performer": "sessions_history.responders.Responder",
        "PerformerFailed": "sessions_history.responders.ResponderFailed",
        "Said": "sessions_history.responders.HistoryMessage",
        "make_performer": "sessions_history.responders.make_responder",
    },
)
