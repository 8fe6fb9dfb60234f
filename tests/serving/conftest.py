"""Puts the models of the runtime's suite within reach, and gives each test a place to serve from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from served import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A home with a database, empty."""
    made = Place(tmp_path)
    yield made
    made.database.close()
