"""The work of one training: data, smoke tests, train, export, and what is known about it afterwards."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidemill.errors import ProjectError, TidemillError, TrainingError
from tidemill.model import Model, Progress, Report, Trainer, TrainingData
from tidemill.project import Project, load_project
from tidemill.records import Json, Outcome, Verdict
from tidemill.schema import Array
from tidemill.stats.metrics import Judged, Metric
from tidemill.stores.blobs import Blobs, digest_of
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.home import Home
from tidemill.stores.reservoir import Reservoir
from tidemill.training import lineage, smoke
from tidemill.training.export import Exported, export, predict
from tidemill.training.runner import ARTEFACT, MADE, SCRATCH, Job, write_json


@dataclass(frozen=True, kw_only=True)
class Made:
    """A trained model as an artefact in `folder`, its metrics on the training rows, and the smoke tests' verdicts."""

    folder: Path
    exported: Exported
    metrics: dict[str, float | None]
    smoke: tuple[Verdict, ...]
    seconds: float


def run(job: Job, report: Report) -> Json:
    """Do `job` and return what `result.json` holds.

    Raises:
        TidemillError: something is wrong with the project, the data, the trainer or its model.
    """
    project = load_project(job.project_file)
    if project.name != job.project:
        raise ProjectError(f"{job.project_file} declares {project.name!r}, not {job.project!r}.", "name the right file")
    home = Home(job.home)
    db = Database.open(job.db_url or home.db_url)
    try:
        datasets = Datasets(db, home.datasets, Reservoir(db, home.reservoir))
        data = datasets.training_data(job.project, job.dataset, project.schema)
    finally:
        db.close()
    blobs = Blobs(home.blobs)
    made = make(
        project,
        data,
        start_from=None if job.start_from is None else blobs.folder(job.start_from),
        seed=job.seed,
        workdir=Path(job.workdir),
        report=report,
        project_file=job.project_file,
        smoke_tests=job.smoke,
        max_latency_ms=job.max_latency_ms,
    )
    # Known before it is there: of a training that is killed here no artefact stays that nobody can tell whose it is.
    write_json(Path(job.workdir) / MADE, {"artefact": digest_of(made.folder)})
    artefact = blobs.put_folder(made.folder)
    shutil.rmtree(made.folder)
    return _result(job, project, made, artefact, len(data))


def make(
    project: Project,
    data: TrainingData,
    *,
    start_from: Path | None,
    seed: int,
    workdir: Path,
    report: Report,
    project_file: str | None,
    smoke_tests: bool = True,
    max_latency_ms: float = 1_000.0,
) -> Made:
    """Train the project's trainer on `data` and write the artefact to the folder `ARTEFACT` of `workdir`.

    Raises:
        TrainingError: a smoke test failed, the trainer raised, or its model is unusable.
        ModelError: what was written does not answer as the model did.
    """
    begun = time.perf_counter()
    scratch, folder = _fresh(workdir / SCRATCH), _fresh(workdir / ARTEFACT)
    verdicts: tuple[Verdict, ...] = ()
    if smoke_tests:
        report(Progress(fraction=0.0, message="smoke tests"))
        verdicts = smoke.run(project.trainer, data, seed=seed, workdir=scratch, max_latency_ms=max_latency_ms)
        if any(v.outcome is Outcome.FAIL for v in verdicts):
            raise smoke.SmokeTestError(verdicts)
    model = _train(project.trainer, data, start_from=start_from, seed=seed, workdir=_fresh(scratch), report=report)
    report(Progress(fraction=1.0, message="exporting"))
    metrics = training_metrics(project.metrics, data, predict(model, data))
    exported = export(model, data, folder, project_file=project_file)
    shutil.rmtree(scratch)
    return Made(folder=folder, exported=exported, metrics=metrics, smoke=verdicts, seconds=time.perf_counter() - begun)


def training_metrics(metrics: Sequence[Metric], data: TrainingData, scores: Array) -> dict[str, float | None]:
    """Return each metric on the training rows, None where it is unknown; for events it always is."""
    output = data.schema.output
    names: tuple[str, ...] = tuple(getattr(output, "names", ()))
    rows = Judged(
        decisions=_objects(output.decide(scores)),
        labels=_objects([names[t] for t in data.targets] if names else data.targets.tolist()),
        scores=scores,
        targets=data.targets,
        classes=names,
    )
    values = {metric.name: metric.value(rows, data.weights) for metric in metrics}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _objects(values: Sequence[object]) -> Array:
    return np.array([*values, None], dtype=object)[:-1]


def _train(
    trainer: Trainer, data: TrainingData, *, start_from: Path | None, seed: int, workdir: Path, report: Report
) -> Model:
    try:
        model = trainer.train(data, start_from=start_from, seed=seed, workdir=workdir, progress=report)
    except TidemillError:
        raise
    except MemoryError as error:
        raise TrainingError("the trainer ran out of memory.", "train on fewer rows, or on a larger machine") from error
    except Exception as error:
        what = f"{type(trainer).__name__}.train raised {type(error).__name__}: {error}"
        raise TrainingError(what, "see the traceback in log.txt") from error
    if not isinstance(model, Model):
        raise TrainingError(
            f"{type(trainer).__name__}.train returned {model!r}, which is no model.",
            "return an object with predict and save",
        )
    return model


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _result(job: Job, project: Project, made: Made, artefact: str, num_rows: int) -> Json:
    return {
        "artefact": artefact,
        "format": made.exported.format,
        "notes": made.exported.notes,
        "metrics": made.metrics,
        "smoke": [verdict.to_json() for verdict in made.smoke],
        "params": project.trainer.to_json(),
        "environment": lineage.environment(),
        "code": lineage.code(job.project_file),
        "seconds": made.seconds,
        "seed": job.seed,
        "dataset": job.dataset,
        "start_from": job.start_from,
        "num_rows": num_rows,
    }
