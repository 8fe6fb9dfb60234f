"""The training process: `python -m tidemill.training.job JOB.json`.

It says who it is before anything heavy is imported, and however it ends it leaves `result.json` or `error.json`, unless
it is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tidemill.model import Progress
from tidemill.training.runner import ERROR, PROGRESS, RESULT, Job, error_json, sign, write_json

_NICER = 5  # serving comes first on a shared machine


def main(argv: list[str], *, kind: Any = Job, work: str = "tidemill.training.work") -> int:
    """Run the job, of a `kind`, by `run` of the module `work`; the exit status is 0 when there is a result."""
    job = kind.read(Path(argv[0]))
    workdir = Path(job.workdir)
    sign(workdir, os.getpid())
    os.nice(_NICER)
    try:
        # Imported here, so that a library that does not import is reported like any other failure.
        result = importlib.import_module(work).run(job, _Report(workdir / PROGRESS))
    except BaseException as error:
        traceback.print_exc()
        write_json(workdir / ERROR, error_json(error, traceback.format_exc()))
        return 1
    write_json(workdir / RESULT, result)
    return 0


class _Report:
    """Appends each report as one line, which a reader may see at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, progress: Progress) -> None:
        numbers = {name: float(value) for name, value in progress.numbers.items()}
        line = {"fraction": float(progress.fraction), "message": progress.message, "numbers": numbers}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread that a trainer left running would keep the process for ever
