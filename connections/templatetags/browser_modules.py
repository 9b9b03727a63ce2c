"""Template tags for pages that load the browser client."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from django import template
from django.contrib.staticfiles.storage import staticfiles_storage
from django.templatetags.static import PrefixNode
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

_MODULES = Path(__file__).parents[1] / "static" / "connections"
_JSON_IN_SCRIPT = {ord("<"): "\\u003C", ord(">"): "\\u003E", ord("&"): "\\u0026"}


@register.simple_tag(takes_context=True)
def import_map(context: template.Context) -> SafeString:
    """
    Return an import map for the modules of the browser client.

    Modules import each other by their plain names. A storage that adds a hash to
    the names, and may keep no file without one, needs the map; for any other
    storage it is empty, and so is the result. It has the nonce of the page's
    Content-Security-Policy, and stands before the first module.
    """
    prefix = PrefixNode.handle_simple("STATIC_URL")
    imports = {}
    for path in sorted(_MODULES.glob("*.js")):
        name = f"connections/{path.name}"
        url = staticfiles_storage.url(name)
        if url != urljoin(prefix, name):
            imports[urljoin(prefix, name)] = url
    if not imports:
        return mark_safe("")
    nonce = context.get("csp_nonce") or getattr(context.get("request"), "csp_nonce", "")
    content: Any = json.dumps({"imports": imports}).translate(_JSON_IN_SCRIPT)
    return format_html(
        '<script type="importmap"{}>{}</script>',
        format_html(' nonce="{}"', nonce) if nonce else "",
        mark_safe(content),
    )
