"""The rows of `learnable.py` as fixtures; made once, so they are not to be changed."""

from __future__ import annotations

import pytest
from learnable import digit_rows, price_rows, title_rows, two_title_rows

digits = pytest.fixture(scope="session", name="digits")(digit_rows)
titles = pytest.fixture(scope="session", name="titles")(title_rows)
two_titles = pytest.fixture(scope="session", name="two_titles")(two_title_rows)
prices = pytest.fixture(scope="session", name="prices")(price_rows)
