"""What a training told while it ran is read back: thinned, without torn lines, and empty where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tidemill.training.runner import LOG, PROGRESS
from tidemill.training.told import log_of, progress_of


def test_progress_is_thinned_and_ends_with_the_newest(tmp_path: Path) -> None:
    lines = [json.dumps({"fraction": i / 999, "message": "", "numbers": {"loss": 1.0}}) for i in range(1000)]
    (tmp_path / PROGRESS).write_text("\n".join([*lines, '{"fraction": 0.']))
    found = progress_of(tmp_path, most=100)
    assert 90 <= len(found) <= 110
    assert found[-1].fraction == 1.0
    assert [one.fraction for one in found] == sorted(one.fraction for one in found)


def test_the_end_of_the_log_is_read(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b"\xff" * 300_000 + b"\nlast but one\nlast\n")
    assert log_of(tmp_path, lines=2) == "last but one\nlast"


def test_a_training_that_left_nothing_told_nothing(tmp_path: Path) -> None:
    assert progress_of(tmp_path / "gone") == []
    assert log_of(tmp_path / "gone") == ""
