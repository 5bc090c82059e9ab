import json

import pytest

from benchmarks.tables import Table, figure_at, make_tables
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def test_table_in_a_terminal_and_in_markdown() -> None:
    table = Table("Speed", ["method", "clips/s"], [["plain", "3"], ["ours", "17.5"]])
    assert table.as_text() == "Speed\nmethod  clips/s\nplain         3\nours       17.5"
    assert "| ours | 17.5 |" in table.as_markdown()


@pytest.mark.parametrize(("name", "figure"), [("a.b", 1), ("a.c", None), ("a.b.c", None)])
def test_figure_of_nested_results(name: str, figure: int | None) -> None:
    assert figure_at({"a": {"b": 1}}, name) == figure


def test_stored_tables_are_those_of_the_stored_results_and_fit_a_terminal() -> None:
    tables = make_tables(json.loads((RESULTS / "speed_cpu.json").read_text()))
    markdown = "\n\n".join(table.as_markdown() for table in tables) + "\n"
    assert (RESULTS / "speed_cpu.md").read_text() == markdown
    for table in tables:
        assert max(map(len, table.as_text().splitlines())) <= 80, table.title
