"""From data to a schema to a gate that reads it: `check --suggest`, `check`, `train`; and `report` in its formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from tidemill.cli import main

pytest.importorskip("pandera.polars", reason="pip install 'tidemill[checks]'")

PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression
{imports}
project = tm.Project(
    name="tides", inputs={{"x": tm.Number(), "app": tm.Category(tag=True)}}, output=tm.Classes(["low", "high"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()), strategy=tm.Strategy(offline=[{tests}]),
)
"""

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Run a command in a folder with a project and 60 rows; return its code, output and errors."""
    for name in ("HOME", "PROJECT", "DATABASE"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "600")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    rows(60).write_parquet("rows.parquet")

    def run(*arguments: str) -> tuple[int, str, str]:
        for module in ("project", "tide_checks"):  # files that a test writes anew
            sys.modules.pop(module, None)
        code: object = 0
        try:
            main.run(arguments)
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out, said.err

    yield run
    for module in ("project", "tide_checks"):
        sys.modules.pop(module, None)


def write_project(folder: Path, *, checks: bool = False) -> None:
    imports = "from tide_checks import schema\n" if checks else ""
    tests = "tm.offline.DataChecks(schema)" if checks else "tm.offline.Latency(1000)"
    (folder / "project.py").write_text(PROJECT.format(imports=imports, tests=tests))


def rows(num: int, *, app: str = "v1", high: float = 3.0) -> pl.DataFrame:
    x = [high * (2 * i / (num - 1) - 1) for i in range(num)]
    return pl.DataFrame({"x": x, "app": [app, "v2"] * (num // 2), "label": ["high" if v > 0 else "low" for v in x]})


def test_a_suggested_schema_passes_its_own_data_and_stops_other_data(shell: Shell, tmp_path: Path):
    code, said, _ = shell("check", "rows.parquet", "--suggest", "--out", "tide_checks.py")
    assert code == 0
    assert "tide_checks.py: a schema that 60 rows meet" in said
    text = (tmp_path / "tide_checks.py").read_text()
    assert '"x": pa.Column(pl.Float64, pa.Check.in_range(-3.6, 3.6))'.replace('"', "'") in text
    assert "'app': pa.Column(pl.String, pa.Check.isin(['v1', 'v2']))" in text
    write_project(tmp_path, checks=True)
    code, said, _ = shell("check", "rows.parquet")
    assert code == 0
    assert "60 training rows hold to it" in said
    rows(60, app="v9", high=30.0).write_parquet("other.parquet")
    code, said, _ = shell("check", "other.parquet")
    assert code == 1
    assert "'x' in_range(-3.6, 3.6): 5" in said
    assert "'app' isin(['v1', 'v2']): 30 rows, such as 'v9'" in said
    assert "(back to data)" in said


def test_the_report_tells_what_became_of_the_training_data(shell: Shell, tmp_path: Path):
    shell("check", "rows.parquet", "--suggest", "--out", "tide_checks.py")
    write_project(tmp_path, checks=True)
    rows(60, app="v9").write_parquet("other.parquet")
    assert shell("train", "other.parquet")[0] == 0
    stored = json.loads(shell("report", "--json")[1])
    (checked,) = stored["data"]
    assert checked["breaches"][0]["column"] == "app"
    assert [v["outcome"] for v in stored["verdicts"]] == ["fail"]
    page = tmp_path / "report.html"
    assert (
        shell("report", "1", "--format", "html", "--out", "report.html")[1] == "report.html: the report on version 1\n"
    )
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "The training data break 1 check of" in page.read_text()
    assert "The training data break 1 check of" in shell("report", "--format", "markdown")[1]
    assert "The training data break 1 check of" in shell("report")[1]
    shell("report", "--out", "report.txt")
    assert "\x1b" not in (tmp_path / "report.txt").read_text()


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("check --suggest", "--suggest needs data to look at."),
        ("check rows.parquet --suggest --out project.py", "'project.py' exists already."),
        ("check nothing.parquet --suggest", "data file 'nothing.parquet' does not exist."),
        ("report 7 --format html", "there is no home folder"),
    ],
)
def test_what_cannot_be_done_is_said(shell: Shell, typed: str, error: str):
    code, _, said = shell(*typed.split())
    assert code == 1
    assert error in said
