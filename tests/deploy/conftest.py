from __future__ import annotations

from pathlib import Path

import pytest
from tables_of_waves import make_home

from tidemill.stores.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two versions, the first one stable."""
    return make_home(tmp_path, versions=2)
