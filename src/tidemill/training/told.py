"""What a training told while it ran: its progress so far, and the end of its log. Reads files, waits for nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tidemill.model import Progress
from tidemill.training.runner import LOG, PROGRESS

_MOST_BYTES = 256_000


def progress_of(workdir: Path, *, most: int = 400) -> list[Progress]:
    """Return the newest reports of a training, the oldest first, evenly thinned to about `most`."""
    found = []
    for line in _end_of(workdir / PROGRESS).splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the first may be cut, the last torn
            found.append(Progress(**json.loads(line)))
    step = max(1, len(found) // most)
    return found[::-1][::step][::-1]


def log_of(workdir: Path, *, lines: int = 200) -> str:
    """Return the last lines that a training wrote."""
    return "\n".join(_end_of(workdir / LOG).splitlines()[-lines:])


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
