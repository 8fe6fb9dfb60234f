"""A dry run of suites: whether their cases can be had, without a model to ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.errors import ProjectError
from tidemill.model import TrainingData
from tidemill.records import Outcome, Verdict
from tidemill.strategy.wording import counted
from tidemill.suites import Perturbed, Sources, Suite


def check_suites(suites: Sequence[Suite], sources: Sources) -> tuple[Verdict, ...]:
    """Have each suite make its cases twice; return a verdict each.

    It fails when they cannot be had, or differ: then `perturb` does not draw from the generator that it is given. Where
    no row changed it is inconclusive.
    """
    return tuple(_check(suite, sources) for suite in suites)


def _check(suite: Suite, sources: Sources) -> Verdict:
    try:
        cases, again = suite.ask(sources), suite.ask(sources)
    except ProjectError as error:
        return _verdict(suite, Outcome.FAIL, f"{error.message} {error.hint}".strip())
    if cases != again:
        drawn = "its cases differ each time; likely it draws from a generator other than the one it is given"
        return _verdict(suite, Outcome.FAIL, drawn)
    if not cases:
        why = f"it changes none of {len(sources.ids)} rows" if isinstance(suite, Perturbed) else "it has no cases yet"
        return _verdict(suite, Outcome.INCONCLUSIVE, why)
    return _verdict(suite, Outcome.PASS, f"{counted(len(cases), 'case')}, version {suite.version(cases)}")


def _verdict(suite: Suite, outcome: Outcome, reason: str) -> Verdict:
    mend = "" if outcome is Outcome.PASS else "strategy"
    return Verdict(outcome=outcome, by=f"suite {suite.name}", reason=f"suite {suite.name}: {reason}", back_to=mend)


def rows_of(data: TrainingData, index: Sequence[int]) -> list[dict[str, Any]]:
    """Return the canonical inputs of some rows."""
    return [{name: _canonical(column[i]) for name, column in data.columns.items()} for i in index]


def _canonical(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value if isinstance(value, str) else float(value)
