"""A log that gateways wrote and the compactor moved, for one project."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))

from log_rows import Mill
from mail import NOON

from tidemill.stores.database import Database


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    """A log, empty."""
    with Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}") as db:
        yield Mill(tmp_path, db, NOON)
