"""Trainings of a backtest: done at once, in this process, unless the same was trained before."""

from __future__ import annotations

import json
from pathlib import Path

from tidemill.errors import TidemillError
from tidemill.loop.backtest.datasets import MemoryDatasets
from tidemill.loop.backtest.memo import Memo, Recipe
from tidemill.project import Project
from tidemill.training.runner import Job, Status, error_json


class Trainings:
    """Answers what `tidemill.training.runner` answers: a job is done, or has failed, when `launch` returns.

    Smoke tests are left out: they say nothing about a strategy. `cpu_s` sums what the trainings cost, those too that
    another run had paid for.
    """

    def __init__(self, project: Project, datasets: MemoryDatasets, memo: Memo) -> None:
        self._project, self._datasets, self._memo = project, datasets, memo
        self._trainer = json.dumps(project.trainer.to_json(), sort_keys=True)
        self._ended: dict[Path, Status] = {}
        self.cpu_s = 0.0

    def launch(self, job: Job) -> Status:
        """Train; one that is done is left alone."""
        workdir = Path(job.workdir)
        if workdir not in self._ended:
            self._ended[workdir] = self._run(job)
        return self._ended[workdir]

    def poll(self, workdir: Path) -> Status:
        """Return how a job ended."""
        return self._ended.get(workdir, Status(state="absent"))

    def kill(self, workdir: Path, reason: str = "it was stopped") -> None:
        """Do nothing: it has ended."""

    def _run(self, job: Job) -> Status:
        recipe = Recipe(self._datasets.content(job.dataset), self._trainer, job.seed, job.start_from)
        try:
            cpu_s = self._memo.train(recipe, self._datasets.lesson(job.dataset, self._project.schema))
        except TidemillError as error:
            return Status(state="failed", error=f"{error.message} Next: {error.hint}", failure=error_json(error))
        self.cpu_s += cpu_s
        return Status(state="done", result={"artefact": recipe.artefact, "seconds": cpu_s, "seed": job.seed})
