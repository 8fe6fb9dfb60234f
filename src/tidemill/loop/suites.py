"""The project's suites asked of stored versions, with the policy in force."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tidemill.errors import NotFound, ProjectError
from tidemill.loop.world import World
from tidemill.policy import Policy
from tidemill.review.logged import logged_case
from tidemill.review.suites import Decide, run_suite, shown
from tidemill.runtime.load import Loaded
from tidemill.schema import Columns, Output
from tidemill.stores.case_file import add_case, read_cases
from tidemill.stores.declared import with_defaults
from tidemill.strategy.suite_result import SuiteResult
from tidemill.strategy.wording import counted
from tidemill.suites import Answer, Case, Cases, Sources, Suite

_ONNX_BATCH, _PYTHON_BATCH = 1024, 16


def run_suites(
    world: World, suites: Sequence[Suite], *, candidate: int, live: int | None, dataset: str | None
) -> tuple[SuiteResult, ...]:
    """Return what becomes of each suite on a candidate, beside the live version.

    Suites that change rows take the test rows of `dataset`; without one, or where its rows are gone, they have none.

    Raises:
        ModelError: an artefact does not load, or does not answer.
    """
    if not suites:
        return ()
    sources = sources_of(world, dataset)
    with ExitStack() as opened:
        mine = _decide(world, candidate, opened)
        theirs = None if live is None else _decide(world, live, opened)
        return tuple(run_suite(suite, sources, candidate=mine, live=theirs) for suite in suites)


def sources_of(world: World, dataset: str | None) -> Sources:
    """Return where the cases of the project's suites come from; of a dataset whose rows are gone there are none."""
    schema, folder = world.project.schema, suites_folder(world.project_file)
    is_kept = dataset is not None and not world.datasets.get(world.name, dataset).is_gone
    rows = world.datasets.test_rows(world.name, dataset) if is_kept and dataset else pl.DataFrame({"id": []})
    rows = with_defaults(rows, schema) if len(rows) else rows

    def take(index: Sequence[int]) -> list[dict[str, Any]]:
        return rows[list(index)].select(list(schema.inputs)).to_dicts() if len(index) else []

    def read(path: str) -> tuple[Case, ...]:
        return read_cases(folder / path, schema)

    return Sources(schema=schema, ids=rows["id"].to_list(), take=take, read=read)


def add_logged(
    world: World, name: str, request_ids: Sequence[str], *, label: str | None, note: str, by: str, now: datetime
) -> list[str]:
    """Make logged requests cases of a suite: their inputs and the right answer go to the end of its file.

    Without a `label`, the one that a system of record or a person gave is taken. Returns a line on each.

    Raises:
        NotFound: the project has no such suite, or the log no such request.
        ProjectError: the suite has no file, the inputs were not kept, or nobody has said what is right.
        InvalidInput: the label does not fit the output.
        Conflict: the file has these inputs with another label.
    """
    suite = find_suite(world.project.suites, name)
    if not isinstance(suite, Cases):
        raise ProjectError(f"suite {name!r} is {type(suite).__name__}, which has no file.", "add to a tm.suites.Cases")
    made = [logged_case(world.log, world.project, id_, label=label, note=note, by=by, now=now) for id_ in request_ids]
    path, said = suites_folder(world.project_file) / suite.path, []
    for case, origin in made:
        where = add_case(path, world.project.schema, case, origin=origin)
        said.append(f"{suite.path}, {where}: {shown(case.inputs)}, wanted {case.label!r}")
    return said


def told_of(request_ids: Sequence[str]) -> str:
    """Return what the audit log keeps of `add_logged`: no inputs, as their person may be forgotten."""
    return f"{counted(len(request_ids), 'case')}: {', '.join(request_ids)}"


def find_suite(suites: Sequence[Suite], name: str) -> Suite:
    """Return the suite of a name.

    Raises:
        NotFound: there is none.
    """
    found = next((suite for suite in suites if suite.name == name), None)
    if found is None:
        names = ", ".join(suite.name for suite in suites) or "none"
        raise NotFound(f"the project has no suite {name!r}.", f"it has {names}")
    return found


def suites_folder(project_file: str) -> Path:
    """Return the folder that the paths of suites count from: the project file's."""
    return Path(project_file.partition(":")[0]).absolute().parent


def _decide(world: World, version: int, opened: ExitStack) -> Decide:
    artefact, policy = world.catalog.artefact(world.name, version), world.catalog.policy_in_force(world.name).policy
    loaded = opened.enter_context(closing(world.load(artefact)))

    def decide(columns: Columns, num_rows: int) -> list[Answer]:
        return _answers(loaded, policy, world.project.output, columns, num_rows)

    return decide


def _answers(loaded: Loaded, policy: Policy, output: Output, columns: Columns, num_rows: int) -> list[Answer]:
    """Answer in batches that bound memory and, for a worker, the time of an answer."""
    size = _PYTHON_BATCH if loaded.is_python else _ONNX_BATCH
    batches = ({n: c[at : at + size] for n, c in columns.items()} for at in range(0, num_rows, size))
    scores = np.concatenate([loaded.predict(batch) for batch in batches])
    decided = policy.decide(output, scores)
    said = [None if silent else decision for decision, silent in zip(decided.decisions, decided.abstained, strict=True)]
    return [Answer(decision, row) for decision, row in zip(said, scores, strict=True)]
