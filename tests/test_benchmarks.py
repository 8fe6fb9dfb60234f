"""Each benchmark is one of those that `make bench` runs, and one that needs more than it has is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"


def listed(*given: str) -> str:
    command = [sys.executable, str(FOLDER), "--list", *given]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_all_benchmarks_are_run_where_all_they_need_is_given() -> None:
    told = listed("--data", "streams", "--peers", "peers", "--venvs", "venvs")
    run = {line.split()[1] for line in told.splitlines() if line.startswith("== ")}
    assert run == {file.name for file in FOLDER.glob("*.py")} - {"__main__.py", "servers.py"}
    assert "left out" not in told


def test_what_is_missing_is_named_and_the_others_run() -> None:
    told = listed("--only", "backtest", "catalog")
    assert told.splitlines() == ["== catalog.py", "left out: backtest.py --data {data}: give --data"]
