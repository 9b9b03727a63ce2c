"""Show the runbook as a page of the admin, so that links to it work everywhere."""

import re
from html import escape

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<b>\1</b>"),
    (re.compile(r"\[([^]]+)\]\((#[\w-]+)\)"), r'<a href="\2">\1</a>'),
)


def render(markdown: str) -> SafeString:
    """Return paragraphs, commands, code, bold text and links to sections as HTML."""
    parts = []
    for index, part in enumerate(_BLOCK.split(markdown)):
        if index % 2:
            parts.append(format_html("<pre>{}</pre>", part.rstrip()))
            continue
        for paragraph in filter(None, re.split(r"\n{2,}", part.strip())):
            parts.append(format_html("<p>{}</p>", _render_inline(paragraph)))
    return mark_safe("\n".join(parts))


def _render_inline(text: str) -> SafeString:
    html = escape(text, quote=False)
    for pattern, replacement in _INLINE:
        html = pattern.sub(replacement, html)
    return mark_safe(html)
