"""Gateways and compactors are killed in the middle of anything: what was acknowledged is in the log, each row once."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import Killing


@pytest.mark.parametrize("durability", ["process", "power"])
def test_rows_acknowledged_under_kills_are_in_the_log_each_once(tmp_path: Path, durability: str) -> None:
    """`python benchmarks/log_kills.py` does the same for longer."""
    done = Killing(tmp_path, durability=durability).run(injected=20, real=4, limit_s=120)
    assert (done.missing, done.doubled) == (0, 0)
    assert done.acknowledged > 1_000, "or the kills left no time to acknowledge anything"
    assert 0 <= done.extra < 24 * 60, "rows that were written when the kill came, and no others"
    assert done.takeovers_s
    assert max(done.takeovers_s) < 10
