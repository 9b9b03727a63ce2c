"""Write SVG as text with escaped attributes, and no inline style (CSP forbids it)."""

from html import escape

from django.utils.safestring import SafeString, mark_safe

Attribute = str | int | float | bool | None


def element(name: str, *children: str, **attributes: Attribute) -> SafeString:
    """
    Return an element; children must be SVG, attributes are escaped.

    `class_` becomes class, `stroke_width` becomes stroke-width. Attributes
    that are None or False are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_format(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(children)
    if inner:
        return mark_safe(f"<{name}{written}>{inner}</{name}>")
    return mark_safe(f"<{name}{written}/>")


def text(content: object, **attributes: Attribute) -> SafeString:
    """Return a text element."""
    return element("text", escape(str(content)), **attributes)


def title(content: object) -> SafeString:
    """Return a tooltip of the parent element."""
    return element("title", escape(str(content)))


def image(
    *children: str, width: float, height: float, label: str, **attributes: Attribute
) -> SafeString:
    """Return an image; screen readers read its label, not its parts."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        **attributes,
    )


def number(value: float) -> str:
    """Return a coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _format(value: Attribute) -> str:
    if isinstance(value, float):
        return number(value)
    return escape(str(value))
