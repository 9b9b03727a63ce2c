"""Test that public imports keep their paths, and that renamed ones warn until 0.3."""

import importlib

import pytest
from django.test import override_settings

PUBLIC = (
    "connections.announcements.post_close_requests",
    "connections.client.Ack",
    "connections.client.EntryArrived",
    "connections.client.HttpSessions",
    "connections.client.SessionClient",
    "connections.client.with_fallback",
    "connections.close_codes.BY_CODE",
    "connections.consumers.LimitedConsumer",
    "connections.consumers.LimitedJsonConsumer",
    "connections.consumers.LimitedSyncConsumer",
    "connections.consumers.LimitedSyncJsonConsumer",
    "connections.layers.broadcast.broadcast",
    "connections.layers.local.LocalLayer",
    "connections.layers.postgres.PostgresLayer",
    "connections.layers.redis.RedisLayer",
    "connections.limits.Limits",
    "connections.logs.ContextFilter",
    "connections.logs.JsonFormatter",
    "connections.logs.TextFormatter",
    "connections.middleware.NodeMiddleware",
    "connections.models.CloseRequest",
    "connections.models.Connection",
    "connections.presence.Presence",
    "connections.presence.are_online",
    "connections.presence.count",
    "connections.presence.get_present",
    "connections.presence.is_online",
    "connections.routing.protect",
    "connections.signals.alert_changed",
    "connections.signals.client_banned",
    "connections.signals.connections_closed",
    "connections.signals.connections_opened",
    "connections.testing.assert_closed",
    "connections.testing.communicators.connect_to",
    "connections.testing.communicators.make_node",
    "connections.testing.plugin",
    "connections.testing.wait_until",
    "connections.urls.urlpatterns",
    "sessions_history.consumers.SessionConsumer",
    "sessions_history.log.get_log",
    "sessions_history.responders.make_responder",
    "sessions_history.signals.session_created",
    "sessions_history.urls.urlpatterns",
)

RENAMED = {
    "connections.client.EntrySettled": "connections.client.EntryCompleted",
    "connections.client.Noticed": "connections.client.NoticeReceived",
    "connections.client.Warned": "connections.client.ErrorReceived",
    "orchestra.performers.CompletionsPerformer": (
        "orchestra.responders.CompletionsResponder"
    ),
    "orchestra.performers.EchoPerformer": "orchestra.responders.EchoResponder",
    "sessions_history.performers.Performer": "sessions_history.responders.Responder",
    "sessions_history.performers.PerformerFailed": (
        "sessions_history.responders.ResponderFailed"
    ),
    "sessions_history.performers.Said": "sessions_history.responders.HistoryMessage",
    "sessions_history.performers.make_performer": (
        "sessions_history.responders.make_responder"
    ),
}


def find(path: str) -> object:
    """Return what a dotted path names: a module, or an attribute of one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        found: object = getattr(importlib.import_module(module), name)
        return found


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_at_its_path(path: str) -> None:
    assert find(path) is not None


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_warns_and_is_the_new_one(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match="goes with 0.3"):
        found = find(old)
    assert found is find(new)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    for module in ("connections.client", "sessions_history.performers"):
        with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
            find(f"{module}.Nobody")


class Performs:
    """A responder as it was written before 0.2."""

    def perform(self, message: object, history: object) -> str:
        return "performed"


def make_old_responder() -> Performs:
    return Performs()


@override_settings(
    SESSIONS_RESPONDER=None,
    SESSIONS_PERFORMER="tests.test_public_names.make_old_responder",
)
def test_the_old_setting_and_method_of_a_responder_are_taken() -> None:
    make_responder = find("sessions_history.responders.make_responder")
    assert callable(make_responder)
    with pytest.warns(DeprecationWarning) as warned:
        responder = make_responder()
    assert responder.respond({}, ()) == "performed"
    text = " ".join(str(one.message) for one in warned)
    assert "SESSIONS_RESPONDER" in text and "respond()" in text
