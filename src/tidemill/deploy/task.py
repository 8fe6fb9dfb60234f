"""What whoever makes parts is told."""

from __future__ import annotations

from typing import Any

import msgspec


class Task(msgspec.Struct, kw_only=True):
    """All that is needed to predict a part, wherever it is done: plain values."""

    folder: str  # of the artefact
    project_file: str
    schema: Any
    policy: Any
    policy_version: int
    version: int
    key: bytes
    keep: list[str]
    typed: bool
    on_bad_row: str
    batch_rows: int
    threads: int
    workdir: str
