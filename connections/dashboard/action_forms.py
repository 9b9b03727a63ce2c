"""Forms in which staff confirm an action."""

from typing import Any

from django import forms

from connections.actions.registry import Action

_BANS = (
    ("3600", "for an hour"),
    ("86400", "for a day"),
    ("604800", "for a week"),
    ("", "until it is lifted"),
)


class ActionForm(forms.Form):
    """A reason for the audit log, and the options of the action."""

    reason = forms.CharField(
        max_length=255,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        help_text="For the audit log; clients do not see it.",
    )
    text = forms.CharField(
        max_length=500,
        label="Notice",
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Clients receive {“type”: “notice”, “text”: …}. "
        "Only JSON consumers can send it.",
    )
    may_return = forms.BooleanField(
        required=False,
        label="The client may return",
        help_text="Close code 4202 asks the client to reconnect at once, 4009 not to.",
    )
    spread_seconds = forms.FloatField(
        min_value=0,
        max_value=3600,
        initial=0,
        label="Spread over",
        help_text="Seconds over which the connections are closed, so that clients "
        "do not all reconnect together. 0: close all at once.",
    )
    ban_for = forms.ChoiceField(
        choices=_BANS, initial="86400", required=False, label="Keep out"
    )

    _FIELDS = {
        "end": ("reason", "may_return"),
        "end-all": ("reason", "may_return", "spread_seconds"),
        "ban": ("reason", "ban_for"),
        "revoke": ("reason",),
        "notice": ("text", "reason"),
        "drain": ("reason",),
        "serve": ("reason",),
    }

    def __init__(self, action: Action, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kept = self._FIELDS[action.name]
        self.fields = {name: self.fields[name] for name in kept}
        if action.name == "notice":
            self.fields["reason"].required = False
