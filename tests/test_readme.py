"""README says what the code does."""

from pathlib import Path

from connections.close_codes import ENDINGS
from connections.config import describe
from connections.management.commands.websocket_config import make_table

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_table_of_keys_is_the_one_the_code_gives() -> None:
    """`manage.py websocket_config --table` prints what has to stand there."""
    text = README.read_text()
    start, end = "<!-- configuration -->\n", "\n<!-- /configuration -->"
    assert text.partition(start)[2].partition(end)[0] == make_table(describe())


def test_every_reason_is_in_the_table_of_close_codes() -> None:
    table = README.read_text().partition("## Close codes")[2].partition("\n## ")[0]
    never_sent = {"closed", "network", "lost", "policy"}
    assert [
        word for word in ENDINGS if word not in table and word not in never_sent
    ] == []
