"""`tidemill batch` as people type it, on the project that `tidemill init` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest


def tidemill(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidemill.cli", "batch", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_file_is_predicted_and_told_of(digits_home: Path, tmp_path: Path) -> None:
    done = tidemill(digits_home, "few.parquet", str(tmp_path / "out.csv"), "--keep", "label", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    made = pl.read_csv(tmp_path / "out.csv")
    assert (told["num_rows"], told["num_refused"], told["version"], len(made)) == (300, 0, 1, 300)
    assert (made["label"] == made["decision"]).mean() > 0.8
    again = tidemill(digits_home, "few.parquet", str(tmp_path / "out.csv"), "--replace")
    assert "300 rows by version 1" in again.stdout


def test_one_row_is_told_of_as_one(digits_home: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(digits_home / "few.parquet").head(2)
    rows.with_columns(app=pl.Series(["web", "x" * 201])).write_parquet(tmp_path / "two.parquet")
    done = tidemill(digits_home, str(tmp_path / "two.parquet"), str(tmp_path / "out.csv"), "--on-bad-row", "skip")
    assert "1 row by version 1 in" in done.stdout and "\n1 row refused, with reasons:" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no.parquet", "out.csv"], "'no.parquet' does not exist"),
        (["few.parquet", "out.xlsx"], "no Parquet or CSV file and no table"),
        (["few.parquet", "out.csv", "--version", "9"], "no version 9"),
        (["few.parquet", "out.csv", "--project", "other.py"], "no project of 'other.py'"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_next_move(digits_home: Path, arguments: list[str], told: str) -> None:
    done = tidemill(digits_home, *arguments)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 2
    assert told.strip("'") in done.stderr and " next: " in done.stderr
    assert not (digits_home / "out.csv").exists()
