"""What tests of the whole product stand on: a home that the commands themselves made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture(scope="session")
def digits_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project that `tidemill init` writes, and version 1 trained on a few of its digits.

    Tests that change it work on a copy.
    """
    folder = tmp_path_factory.mktemp("digits")
    _tidemill(folder, "init")
    pl.read_parquet(folder / "digits.parquet").head(300).write_parquet(folder / "few.parquet")
    _tidemill(folder, "train", "few.parquet")
    return folder


def _tidemill(folder: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tidemill.cli", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
