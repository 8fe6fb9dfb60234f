"""Tables in a terminal: nothing is cut away, and no cell is taken for markup."""

from __future__ import annotations

import pytest
from rich.table import Table

from tidemill.cli.screen import show_table

ID = "01a1fd98-6efe-7001-a14a-847f3636eb97"


def wide() -> Table:
    table = Table("request", "text", "score", box=None)
    table.add_row(ID, "[/b] says [bold]who[/bold]", "0.25")
    table.add_row(ID.upper(), "a b", "1")
    return table


def test_what_looks_like_markup_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(wide())
    assert "[/b] says [bold]who[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize("is_terminal", [False, True])
def test_words_between_colons_stay_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    for columns in ("30", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        table = Table("tag", "text", box=None)
        table.add_row("a:x:b", ":warning:")
        show_table(table)
        said = capsys.readouterr().out
        assert "a:x:b" in said and ":warning:" in said


def test_into_a_pipe_a_row_is_a_line_however_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    show_table(wide())
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["request", "text", "score"]
    assert first.split()[0] == ID and first.split()[-1] == "0.25"
    assert second.split() == [ID.upper(), "a", "b", "1"]


def test_a_terminal_that_is_too_narrow_gets_a_line_for_each_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take it for a terminal
    monkeypatch.setenv("COLUMNS", "30")
    show_table(wide())
    assert capsys.readouterr().out.splitlines() == [
        f" request  {ID}",
        " text     [/b] says [bold]who[/bold]",
        " score    0.25",
        "",
        f" request  {ID.upper()}",
        " text     a b",
        " score    1",
        "",
    ]
