"""Where the Python models of this suite are defined."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def python_models() -> str:
    """The file that plays the project file."""
    return str(Path(__file__).with_name("python_models.py"))
