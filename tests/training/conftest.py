"""The rows of `learnable.py` as fixtures; made once, so they are not to be changed."""

from __future__ import annotations

import os

import pytest
from learnable import digit_rows, price_rows, title_rows, two_title_rows

os.environ["OMP_NUM_THREADS"] = "1"  # as the runner sets it here: sums depend on the number of threads

digits = pytest.fixture(scope="session", name="digits")(digit_rows)
titles = pytest.fixture(scope="session", name="titles")(title_rows)
two_titles = pytest.fixture(scope="session", name="two_titles")(two_title_rows)
prices = pytest.fixture(scope="session", name="prices")(price_rows)
