"""Forms in which staff confirm an action."""

from typing import Any

from django import forms

from connections.dashboard.actions import Action

_BANS = (
    ("3600", "for an hour"),
    ("86400", "for a day"),
    ("604800", "for a week"),
    ("", "until it is lifted"),
)


class ActionForm(forms.Form):
    """A reason, which goes into the audit log, and what the act leaves open."""

    reason = forms.CharField(
        max_length=255,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        help_text="For the audit log; no client sees it.",
    )
    text = forms.CharField(
        max_length=500,
        label="Notice",
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="What the client is sent, as {“type”: “notice”, “text”: …}. "
        "Only consumers that speak JSON take it.",
    )
    may_return = forms.BooleanField(
        required=False,
        label="The client may return",
        help_text="Told to connect again at once (4202), otherwise not to (4009).",
    )
    spread_seconds = forms.FloatField(
        min_value=0,
        max_value=3600,
        initial=0,
        label="Spread over",
        help_text="Seconds within which each ends at a moment of its own, so that not "
        "all return at once. 0: now.",
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
