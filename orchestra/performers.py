"""The names that orchestra.responders had before 0.2."""

from connections.deprecation import import_renamed

__getattr__ = import_renamed(
    __name__,
    {
        "CompletionsPerformer": "orchestra.responders.CompletionsResponder",
        "EchoPerformer": "orchestra.responders.EchoResponder",
    },
)
