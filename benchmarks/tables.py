"""Tables of a measurement: figures, and ratios to bare Channels."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.contenders import REFERENCE, REFERENCES
from benchmarks.report import compare, make_table, summarise
from benchmarks.sizes import Values

_LESS_IS_BETTER = ("_us", "_ms", "_percent", "kib_per_connection")


def make_tables(found: Mapping[str, Sequence[Values]]) -> Iterator[str]:
    """
    Yield the figures, and the ratios to bare Channels.

    Ratios are those to bare Channels on stock daphne, and for a contender under
    another server also those to bare Channels on that server.
    """
    if not found:
        return
    keys = list(next(iter(found.values()))[0])
    rows = [
        [name, *(summarise([values[key] for values in rounds]) for key in keys)]
        for name, rounds in found.items()
    ]
    yield make_table(("contender", *keys), rows)
    if REFERENCE in found and len(found) > 1:
        yield _make_ratios(REFERENCE, found, list(found))
    for name, reference in REFERENCES.items():
        if name in found and reference in found:
            yield _make_ratios(reference, found, [name])


def _make_ratios(
    reference: str, found: Mapping[str, Sequence[Values]], names: Sequence[str]
) -> str:
    keys = list(found[reference][0])
    ratios = [
        [name, *(find_ratio(found[name], found[reference], key) for key in keys)]
        for name in names
    ]
    return make_table((f"times better than {reference}", *keys), ratios)


def find_ratio(
    rounds: Sequence[Values], reference: Sequence[Values], key: str
) -> object:
    """Return the ratio to the reference, above 1 if better, over all rounds."""
    ours = [values[key] for values in rounds]
    theirs = [values[key] for values in reference]
    if not all(ours) or not all(theirs):
        return "-"
    if key.endswith(_LESS_IS_BETTER):
        return compare(theirs, ours)
    return compare(ours, theirs)
