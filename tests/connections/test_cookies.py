"""Test that cookies are parsed like http.cookies does, in linear time."""

from http.cookies import SimpleCookie

from hypothesis import given
from hypothesis import strategies as st

from connections.net.cookies import read_cookies


@given(
    st.dictionaries(
        st.text("abcXYZ_-", min_size=1, max_size=8),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
        max_size=4,
    )
)
def test_cookies_written_by_python_are_read_back(cookies: dict[str, str]) -> None:
    written: SimpleCookie = SimpleCookie(cookies)
    header = written.output(attrs=[], header="", sep=";")
    assert dict(read_cookies(header)) | {"": ""} == cookies | {"": ""}


def test_malformed_cookies_are_harmless() -> None:
    assert dict(read_cookies('; a; =; c="; d=e=f;"')) == {
        "": "",
        "a": "",
        "c": '"',
        "d": "e=f",
        '"': "",
    }


def test_a_long_quoted_value_is_read_in_one_pass() -> None:
    """http.cookies of Python 3.11.7 needs minutes for this value."""
    ((name, value),) = read_cookies('a="' + "\\\\" * 1_000_000 + '"')
    assert (name, value) == ("a", "\\" * 1_000_000)
