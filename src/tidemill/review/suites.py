"""Suites put to the candidate and to the live version: the same cases, each answered by both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array, Columns, Schema
from tidemill.strategy.suite_result import FailedCase, SuiteResult
from tidemill.suites import Answer, Case, Inputs, Sources, Suite

MAX_SHOWN = 50
_MAX_CHARS = 80

Decide = Callable[[Columns, int], Sequence[Answer]]
"""Answers a batch of N rows: a version and the policy in force."""


def run_suite(suite: Suite, sources: Sources, *, candidate: Decide, live: Decide | None = None) -> SuiteResult:
    """Ask both versions all cases of a suite. What makes it impossible to ask is the result's `problem`."""
    blank = SuiteResult(
        name=suite.name, kind=type(suite).__name__, version="", at_least=suite.at_least, sampled=suite.sampled
    )
    try:
        cases = suite.ask(sources)
    except ProjectError as error:
        return replace(blank, problem=str(error))
    blank = replace(blank, version=suite.version(cases))
    if not cases:
        return blank
    mine = _answers(suite, cases, candidate, sources.schema)
    theirs = None if live is None else _answers(suite, cases, live, sources.schema)
    return replace(blank, **_counted(cases, mine, theirs))


class _Asked:
    """The answers of one version: what it said to a case, what was wanted, and whether that passes."""

    def __init__(self, said: str, wanted: str, passes: bool) -> None:
        self.said, self.wanted, self.passes = said, wanted, passes


def _answers(suite: Suite, cases: Sequence[Case], decide: Decide, schema: Schema) -> list[_Asked]:
    originals = [case.original for case in cases if case.original is not None]
    rows = [*(case.inputs for case in cases), *originals]
    answers = decide(schema.columns(rows), len(rows))
    before = iter(answers[len(cases) :])
    asked = []
    for case, answer in zip(cases, answers[: len(cases)], strict=True):
        first = None if case.original is None else next(before)
        passes = suite.passes(case, answer, first, schema.output)
        asked.append(_Asked(_said(answer, first), suite.wanted(case, first), passes))
    return asked


def _counted(cases: Sequence[Case], mine: Sequence[_Asked], theirs: Sequence[_Asked] | None) -> dict[str, Any]:
    ok = np.array([a.passes for a in mine])
    live_ok = None if theirs is None else np.array([a.passes for a in theirs])
    failed = [
        FailedCase(
            id=case.id, inputs=shown(case.inputs), wanted=mine[i].wanted, candidate=mine[i].said, note=case.note,
            live=None if theirs is None else theirs[i].said, new=bool(theirs is not None and theirs[i].passes),
        )
        for i, case in enumerate(cases)
        if not ok[i]
    ]  # fmt: skip
    both = {} if live_ok is None else {
        "num_failed_live": int((~live_ok).sum()),
        "num_new": int((live_ok & ~ok).sum()),
        "num_fixed": int((ok & ~live_ok).sum()),
    }  # fmt: skip
    first = sorted(failed, key=lambda case: not case.new)[:MAX_SHOWN]
    return {"num_cases": len(cases), "num_failed": len(failed), "failed": tuple(first), **both}


def _said(answer: Answer, before: Answer | None) -> str:
    if answer.said is None:
        return "abstains"
    text = repr(answer.said) if isinstance(answer.said, str) else f"{answer.said:.6g}"
    if before is None or (k := _moved(answer.scores, before.scores)) is None:
        return text
    return f"{text} (score {before.scores[k]:.2f} -> {answer.scores[k]:.2f})"


def _moved(now: Array, before: Array) -> int | None:
    """Return the score that moved most, None where the scores are a number that the decision tells already."""
    return None if len(now) == 1 else int(np.abs(now - before).argmax())


def shown(inputs: Inputs) -> str:
    """Return inputs in one short line: `text='bad word', country='de'`."""
    return ", ".join(f"{name}={_value(value)}" for name, value in inputs.items())


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_CHARS else value[: _MAX_CHARS - 3] + "...")
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
