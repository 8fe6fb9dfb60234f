"""The process of a scheduled batch prediction: `python -m tidemill.deploy.job JOB.json`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from tidemill.records import Json
from tidemill.training.job import main


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """One slot of a declared batch: all that its process is told. What it reads and writes is in the project file."""

    module: ClassVar[str] = "tidemill.deploy.job"

    project_file: str
    home: str
    project: str
    batch: str
    slot: int
    version: int
    workdir: str
    db_url: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def to_json(self) -> Json:
        """Return what the job file holds."""
        return asdict(self)


if __name__ == "__main__":
    status = main(sys.argv[1:], kind=BatchJob, work="tidemill.deploy.scheduled")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
