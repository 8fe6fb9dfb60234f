"""A version made by hand: from labelled rows to a model, with its report against a baseline.

Version 1 answers all traffic at once. A later one is made so where the project file's schema waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from tidemill.clock import Clock
from tidemill.errors import ProjectError, TrainingError
from tidemill.loop.evaluate import evaluate
from tidemill.loop.world import World
from tidemill.model import Progress
from tidemill.records import DatasetVersion, Example, Json, ModelVersion, Outcome, Route, Trust
from tidemill.review.report import Report, evidence
from tidemill.training import runner

_LOOK_S = 0.1


def train_first(
    world: World, examples: Sequence[Example], *, clock: Clock, progress: Callable[[Progress], None], smoke: bool = True
) -> tuple[int, Report]:
    """Import examples, train on them and route all traffic to the result; return the version and its report.

    Cut short, it can be run again with the same rows: examples, dataset and run are known by their content.

    Raises:
        ProjectError: a version is live already, or no row is left to train on.
        TrainingError: the training failed; the message says why.
    """
    route = world.catalog.route(world.name)
    if route is not None:
        raise _served(world, route)
    version, report = _made(world, examples, clock, progress, smoke=smoke)
    policy = world.catalog.policy_in_force(world.name)
    with world.db.begin() as conn:
        world.catalog.add_report(conn, world.name, version, report.to_json(), clock.now())
        world.catalog.set_status(conn, world.name, version, "live")
        first = Route(revision=0, stable=version, policy_version=policy.number)
        world.catalog.set_route(conn, world.name, first, now=clock.now(), by="train", reason="first version")
    return version, report


def train_next(
    world: World, examples: Sequence[Example], *, clock: Clock, progress: Callable[[Progress], None]
) -> tuple[int, Report]:
    """Import examples and train a version of the schema that waits; return it and its report. Nobody is sent to it.

    Raises:
        ProjectError: nothing waits, or no row is left to train on.
        TrainingError: the training failed; the message says why.
    """
    route = world.catalog.route(world.name)
    if route is not None and not world.schemas.change(world.project.schema):
        raise _served(world, route)
    version, report = _made(world, examples, clock, progress, smoke=True)
    with world.db.begin() as conn:
        world.catalog.add_report(conn, world.name, version, report.to_json(), clock.now())
    return version, report


def _served(world: World, route: Route) -> ProjectError:
    return ProjectError(
        f"{world.name!r} serves version {route.stable} already.",
        "add data with `tidemill import`, then `tidemill retrain`",
    )


def _made(
    world: World, examples: Sequence[Example], clock: Clock, progress: Callable[[Progress], None], *, smoke: bool
) -> tuple[int, Report]:
    dataset = _form(world, examples, clock)
    run, result = _train(world, dataset, clock, progress, smoke=smoke)
    version = _register(world, dataset, run, result, clock)
    return version, _judged(world, evaluate(world, candidate=version, live=None, dataset=dataset.digest), clock)


def _judged(world: World, report: Report, clock: Clock) -> Report:
    """Return the report with what the tests say of it; nobody waits for a person's word on version 1."""
    seen = evidence(report, approval=None, now=clock.now())
    verdicts = [member.judge(seen) for member in world.project.strategy.offline]
    return replace(report, verdicts=tuple(v for v in verdicts if v.outcome is not Outcome.UNKNOWN))


def add_examples(world: World, examples: Sequence[Example]) -> int:
    """Add imported examples to the reservoir; return how many were new."""
    with world.db.begin() as conn:
        return world.reservoir.add(conn, world.name, examples, sameness=world.sameness)


def _form(world: World, examples: Sequence[Example], clock: Clock) -> DatasetVersion:
    add_examples(world, examples)
    index = world.reservoir.index(world.name)
    train = index.filter((index["split"] == "train") & index["label"].is_not_null()).sort("received_at", "id")
    if not len(train):
        raise ProjectError("no labelled row is left to train on.", "give more rows: a fifth of them is kept for tests")
    with world.db.begin() as conn:
        return world.datasets.form(
            conn, world.name, ids=train["id"].to_list(), weights=(1.0,) * len(train), formed_by="import", parent=None,
            schema=world.project.schema, now=clock.now(), test_trust=Trust(world.project.strategy.test_trust),
        )  # fmt: skip


def _train(
    world: World, dataset: DatasetVersion, clock: Clock, progress: Callable[[Progress], None], *, smoke: bool
) -> tuple[str, Json]:
    made_of = [dataset.digest, world.trainer_json, world.project.schema.to_json()]
    run = f"first-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}"
    workdir = world.workdir(run)
    job = runner.Job(
        project_file=world.project_file, home=str(world.home.folder), db_url=world.db_url, project=world.name,
        dataset=dataset.digest, seed=world.seed("train", run) % 2**31, start_from=None, run=run, workdir=str(workdir),
        smoke=smoke,
    )  # fmt: skip
    with world.db.begin() as conn:
        world.catalog.start_run(conn, world.name, run, None, {"dataset": dataset.digest, "seed": job.seed}, clock.now())
    world.runner.launch(job)
    return run, _wait(world, run, clock, progress, world.project.strategy.train_timeout)


def _wait(world: World, run: str, clock: Clock, progress: Callable[[Progress], None], limit: timedelta) -> Json:
    workdir, deadline = world.workdir(run), clock.now() + limit
    while (status := world.runner.poll(workdir)).state == "running":
        if status.progress is not None:
            progress(status.progress)
        if clock.now() > deadline:
            status = runner.Status(state="failed", error=f"it ran longer than train_timeout = {limit}")
            break
        clock.sleep(_LOOK_S)
    if status.state == "done" and status.result is not None:
        return status.result
    world.runner.kill(workdir)  # and what it left behind
    error = status.error or "the training process died without a word"
    with world.db.begin() as conn:
        world.catalog.end_run(conn, world.name, run, "failed", {"error": error}, clock.now())
    raise TrainingError(f"training failed: {error}", f"see {workdir / 'log.txt'}")


def _register(world: World, dataset: DatasetVersion, run: str, result: Json, clock: Clock) -> int:
    model = ModelVersion(
        version=0, artefact=result["artefact"], created_at=clock.now(), dataset=dataset.digest,
        strategy=world.project.strategy.digest(), parent=None, cycle=None, run=run,
    )  # fmt: skip
    with world.db.begin() as conn:
        version = world.catalog.add_model(conn, world.name, model)
        world.catalog.end_run(conn, world.name, run, "done", result, clock.now())
    return version
