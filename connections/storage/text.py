"""Make text storable: bound its length and remove what a database refuses."""


def clean(text: str, limit: int) -> str:
    """Cut a text, and replace NULs and lone surrogates, which databases refuse."""
    if text.isascii() and "\x00" not in text:
        return text[:limit]
    stored = text[:limit].replace("\x00", "\ufffd")
    return stored.encode("utf-8", "replace").decode("utf-8")
