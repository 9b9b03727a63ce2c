"""A tag for the breadcrumbs of pages that extend those of the admin."""

from django import VERSION, template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

register = template.Library()


@register.simple_block_tag
def breadcrumbs(content: str) -> SafeString:
    """Mark up lines, each a link and the last one the page, as this Django does."""
    lines = [mark_safe(line.strip()) for line in content.splitlines() if line.strip()]
    if VERSION < (6, 1):
        return format_html(
            '<div class="breadcrumbs">{}</div>', mark_safe(" &rsaquo; ".join(lines))
        )
    *links, page = lines
    # The admin's style sheet relies on the spaces between the items.
    return format_html(
        '<ol class="breadcrumbs">\n{}\n<li aria-current="page">{}</li>\n</ol>',
        format_html_join("\n", "<li>{}</li>", ((link,) for link in links)),
        page,
    )
