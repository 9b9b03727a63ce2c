"""The session checks a payload before it reaches a database."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.exceptions import InvalidMessage
from sessions_history.payloads import MAX_DEPTH, clean_text, digest, dump

STORABLE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30
)
PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | STORABLE,
    lambda inner: st.lists(inner) | st.dictionaries(STORABLE, inner),
    max_leaves=20,
).filter(lambda value: "Infinity" not in json.dumps(value))


def nest(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


@given(PAYLOADS)
def test_what_json_can_say_comes_back_the_same(payload: Any) -> None:
    assert json.loads(dump(payload)) == payload


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (float("nan"), "NaN"),
        ({"a": [float("inf")]}, "Infinity"),
        ({"a": "b\x00"}, "NUL"),
        ({"\x00": 1}, "NUL"),
        ({"a": "\ud83d"}, "surrogate"),
        ({"\udc00": 1}, "surrogate"),
        (nest(MAX_DEPTH + 1), "64"),
        (nest(100_000), "64"),
    ],
)
def test_what_cannot_be_stored_is_named(payload: Any, what: str) -> None:
    with pytest.raises(InvalidMessage, match=what) as refused:
        dump(payload)
    assert refused.value.code == "invalid_message"


@pytest.mark.parametrize(
    "payload",
    [
        nest(MAX_DEPTH),
        [[]] * 1000,
        {"a": "\\u0000"},
        {"a": "[" * 1000},
        "👩‍👩‍👧 e\u0301",
    ],
)
def test_what_only_looks_wrong_is_stored(payload: Any) -> None:
    assert json.loads(dump(payload)) == payload


def test_a_digest_knows_no_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, 2]) != digest([2, 1])


@given(st.text(st.characters(), max_size=30))
def test_a_cleaned_text_can_be_stored(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode()
    assert "\x00" not in cleaned
    assert json.loads(dump(cleaned)) == cleaned
