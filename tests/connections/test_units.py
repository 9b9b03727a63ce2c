import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.units import count_of, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("12B", 12),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1MB", 1_000_000),
        ("1MiB", 1_048_576),
        ("2GB", 2_000_000_000),
        ("2GiB", 2_147_483_648),
        ("1.5KiB", 1536),
        (" 64 kib ", 65_536),
    ],
)
def test_decimal_and_binary_sizes_are_distinct(
    text: str | int, size_bytes: int
) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", -1, True, "1TB", "1.0001kB", "1 M B", "1e3", "٣MB", "0x10"]
)
def test_an_invalid_size_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"size|bytes"):
        parse_size(text)


@given(st.integers(0, 2**40))
def test_a_formatted_size_means_the_same_bytes(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0"),
        (1001, "1001"),
        (65_536, "64KiB"),
        (1_000_000, "1MB"),
        (1024**3, "1GiB"),
    ],
)
def test_a_size_is_formatted_in_its_largest_unit(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")]
)
def test_one_is_singular(count: int, text: str) -> None:
    assert count_of(count, "node") == text
