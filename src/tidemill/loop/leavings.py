"""What trainings that are over have left on the disk: rows in clear, in folders and in artefacts of no version."""

from __future__ import annotations

import shutil

from tidemill.loop.world import World
from tidemill.stores.models import Run
from tidemill.training import runner


def clear_leavings(world: World) -> None:
    """Delete what the project's trainings that are over have made and handed to nobody.

    That is what they were writing when they failed or were killed, artefacts that became no version, and copies of
    artefacts that a killed process was about to store.
    """
    expected = awaited(world)
    over = [run for run in world.catalog.runs(world.name) if not _goes_on(world, world.name, run)]
    with world.db.read() as conn:  # after the look at what runs: what is registered meanwhile is named by then
        named = set().union(*world.catalog.artefacts(conn))
    for run in over:
        workdir = world.workdir(run.run)
        runner.clear(workdir)
        # Of one that is done a version came: processes may have opened its artefact, though it has another by now.
        made = None if run.status == "done" else runner.made(workdir)
        if made is not None and made not in named | expected:
            world.blobs.remove(made)
    for left in world.workdir("any").parent.glob("forget-*"):
        shutil.rmtree(left, ignore_errors=True)
    world.blobs.sweep()


def awaited(world: World) -> set[str]:
    """Return the artefacts of trainings, of all projects, that run, or are done and that no loop has taken up yet."""
    return {
        made
        for project in world.catalog.projects()
        for run in world.catalog.runs(project)
        if _goes_on(world, project, run) and (made := runner.made(world.home.runs / project / run.run)) is not None
    }


def _goes_on(world: World, project: str, run: Run) -> bool:
    """Tell whether a training is to begin, runs, or is done and not taken up: a version may yet come of it."""
    if run.status != "running":
        return False
    return world.runner.poll(world.home.runs / project / run.run).state in ("absent", "running", "done")
