"""Test that equal texts are held once, and not for ever."""

import gc
import weakref

from connections.interning import share


class Text(str):
    """A text that tells when nobody holds it any more."""

    __slots__ = ("__weakref__",)


def test_equal_texts_are_one() -> None:
    first, second = "".join(["/ws/", "chat/"]), "".join(["/ws", "/chat/"])
    assert first is not second
    assert share(first) is share(second)


def test_texts_of_passing_clients_are_let_go() -> None:
    """A flood of paths takes no memory for good."""
    held = weakref.ref(text := Text("/ws/passing/"))
    share(text)
    del text
    for number in range(2000):
        share(f"/ws/{number}/")
    gc.collect()
    assert held() is None


def test_a_long_text_is_not_kept() -> None:
    held = weakref.ref(text := Text("/" * 8000))
    assert share(text) is text
    del text
    gc.collect()
    assert held() is None
