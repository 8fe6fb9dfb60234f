"""The step that trains a candidate in a process of its own, which may be killed, hang or fail."""

from __future__ import annotations

from tidemill.loop.ending import end_cycle
from tidemill.loop.world import Turn
from tidemill.records import Cycle, Json, ModelVersion, Outcome, Verdict
from tidemill.training import runner

MAX_ATTEMPTS = 3


def train(turn: Turn, cycle: Cycle) -> bool:
    """Start the training, look how it stands, and register the candidate when it is done."""
    plan = turn.world.journal.step(turn.name, cycle.number, "train.plan") or _plan(turn, cycle)
    attempt = turn.state(f"train.{cycle.number}").get("attempt", 1)
    run = f"cycle-{cycle.number}-attempt-{attempt}"
    workdir = turn.world.workdir(run)
    status = turn.world.runner.poll(workdir)
    if status.state == "absent":
        return not turn.waits and _start(turn, cycle, plan, run)  # it would read the file
    if status.state == "running":
        return _stop_if_late(turn, cycle, run)
    turn.world.runner.kill(workdir)  # what it started and left behind
    if status.state == "done" and status.result is not None:
        return _register(turn, cycle, plan, run, status.result)
    if status.state == "dead" and attempt < MAX_ATTEMPTS:
        return _again(turn, cycle, run, attempt)
    if status.failure is not None:
        return _fail(turn, cycle, run, str(status.error), back_to=status.failure["back_to"])
    return _fail(turn, cycle, run, f"the training process died {attempt} times; the last time {status.error}")


def _plan(turn: Turn, cycle: Cycle) -> Json:
    """Fix the seed and the starting point, so that every attempt trains the same model."""
    world, route = turn.world, turn.world.catalog.route(turn.name)
    live = route.stable if route and turn.strategy.start_from == "live" else None
    plan = {"seed": world.seed("train", cycle.number) % 2**31, "parent": live}
    with turn.write() as conn:
        world.journal.record(conn, turn.name, cycle.number, "train.plan", plan, turn.now)
    return plan


def _start(turn: Turn, cycle: Cycle, plan: Json, run: str) -> bool:
    world, parent = turn.world, plan["parent"]
    assert cycle.dataset is not None, "a cycle reaches `train` with a dataset"
    job = runner.Job(
        project_file=world.project_file,
        home=str(world.home.folder),
        db_url=world.db_url,
        project=turn.name,
        dataset=cycle.dataset,
        seed=plan["seed"],
        start_from=world.catalog.model(turn.name, parent).artefact if parent is not None else None,
        run=run,
        workdir=str(world.workdir(run)),
        smoke=True,
    )
    with turn.write() as conn:
        body = {"trainer": world.trainer_json, "dataset": cycle.dataset, **plan}
        world.catalog.start_run(conn, turn.name, run, cycle.number, body, turn.now)
    world.runner.launch(job)
    return True


def _stop_if_late(turn: Turn, cycle: Cycle, run: str) -> bool:
    started = next(r.started_at for r in turn.world.catalog.runs(turn.name) if r.run == run)
    limit = turn.strategy.train_timeout
    if turn.now - started <= limit:
        return False
    turn.world.runner.kill(turn.world.workdir(run))
    return _fail(turn, cycle, run, f"the training was stopped: it ran longer than train_timeout = {limit}")


def _again(turn: Turn, cycle: Cycle, run: str, attempt: int) -> bool:
    world = turn.world
    with turn.write() as conn:
        world.catalog.end_run(conn, turn.name, run, "failed", {"error": "the process died"}, turn.now)
        world.journal.put_state(conn, turn.name, f"train.{cycle.number}", {"attempt": attempt + 1}, turn.now)
    return True


def _register(turn: Turn, cycle: Cycle, plan: Json, run: str, result: Json) -> bool:
    world = turn.world
    model = ModelVersion(
        version=0,
        artefact=result["artefact"],
        created_at=turn.now,
        dataset=cycle.dataset,
        strategy=turn.strategy.digest(),
        parent=plan["parent"],
        cycle=cycle.number,
        run=run,
    )
    with turn.write() as conn:
        version = world.catalog.add_model(conn, turn.name, model)
        world.catalog.end_run(conn, turn.name, run, "done", result, turn.now)
        world.journal.record(conn, turn.name, cycle.number, "train", {"version": version}, turn.now)
        world.journal.move(conn, turn.name, cycle.number, step="test", candidate=version)
    return True


def _fail(turn: Turn, cycle: Cycle, run: str, error: str, *, back_to: str = "training") -> bool:
    with turn.write() as conn:
        turn.world.catalog.end_run(conn, turn.name, run, "failed", {"error": error}, turn.now)
    verdict = Verdict(outcome=Outcome.FAIL, by="training", reason=error, back_to=back_to)
    return end_cycle(turn, cycle, "failed", verdict, step="train")
