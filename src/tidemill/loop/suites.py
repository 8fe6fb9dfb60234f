"""The project's suites asked of stored versions, with the policy in force."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tidemill.loop.world import World
from tidemill.policy import Policy
from tidemill.review.suites import Decide, run_suite
from tidemill.runtime.load import Loaded
from tidemill.schema import Columns, Output
from tidemill.stores.case_file import read_cases
from tidemill.strategy.suite_result import SuiteResult
from tidemill.suites import Answer, Case, Sources, Suite

_ONNX_BATCH, _PYTHON_BATCH = 1024, 16


def run_suites(
    world: World, suites: Sequence[Suite], *, candidate: int, live: int | None, dataset: str | None
) -> tuple[SuiteResult, ...]:
    """Return what becomes of each suite on a candidate, beside the live version.

    Suites that change rows take the test rows of `dataset`; without one they have no cases.

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
    """Return where the cases of the project's suites come from."""
    schema, folder = world.project.schema, suites_folder(world.project_file)
    rows = pl.DataFrame({"id": []}) if dataset is None else world.datasets.test_rows(world.name, dataset)

    def take(index: Sequence[int]) -> list[dict[str, Any]]:
        return rows[list(index)].select(list(schema.inputs)).to_dicts() if len(index) else []

    def read(path: str) -> tuple[Case, ...]:
        return read_cases(folder / path, schema)

    return Sources(schema=schema, ids=rows["id"].to_list(), take=take, read=read)


def suites_folder(project_file: str) -> Path:
    """Return the folder that the paths of suites count from: the project file's."""
    return Path(project_file.partition(":")[0]).absolute().parent


def _decide(world: World, version: int, opened: ExitStack) -> Decide:
    model, policy = world.catalog.model(world.name, version), world.catalog.policy_in_force(world.name).policy
    loaded = opened.enter_context(closing(world.load(model.artefact)))

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
