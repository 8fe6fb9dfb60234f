"""The baselines that are no model: a constant answer, and a rule that the project wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tidemill.errors import InvalidInput, ProjectError
from tidemill.schema import Array, Columns, Output
from tidemill.stats.metrics import Judged
from tidemill.strategy.baseline import Rule


def majority(judged: Judged, train_targets: Array) -> Judged:
    """Return, on the rows of `judged`, the constant answer that training labels suggest.

    For classes it is the commonest one, with the frequencies as scores; for numbers it is the median.
    """
    if not len(train_targets):
        raise ProjectError("there are no training labels to take a majority of.", "label some examples")
    if judged.classes:
        scores = np.bincount(train_targets, minlength=len(judged.classes)) / len(train_targets)
        answer: str | float = judged.classes[int(scores.argmax())]
    else:
        answer = float(np.median(train_targets))
        scores = np.array([answer])
    return _answered(judged, [answer] * len(judged), np.tile(scores, (len(judged), 1)))


def by_rule(judged: Judged, rule: Rule, output: Output, columns: Columns) -> Judged:
    """Return, on the rows of `judged`, what a rule answers to the inputs `columns`; its class has the score 1.

    Raises:
        ProjectError: the rule raised, or its answer does not fit the output; the message names the row.
    """
    rows = ({name: column[i] for name, column in columns.items()} for i in range(len(judged)))
    answers = [_answer(rule, output, inputs, i) for i, inputs in enumerate(rows)]
    if judged.classes:
        scores = np.eye(len(judged.classes))[output.targets(answers)]
    else:
        scores = np.array(answers, dtype=np.float64)[:, None]
    return _answered(judged, answers, scores)


def _answer(rule: Rule, output: Output, inputs: dict[str, Any], row: int) -> str | float:
    try:
        return output.parse_label(rule.function(inputs))
    except InvalidInput as error:
        raise ProjectError(f"{rule} answers row {row} with what is no label: {error.message}", error.hint) from error
    except Exception as error:
        raise ProjectError(f"{rule} raised {type(error).__name__}: {error} on row {row}.", "mend the rule") from error


def _answered(judged: Judged, answers: Sequence[str | float], scores: Array) -> Judged:
    numbers = np.array(answers, dtype=np.float64) if not judged.classes else None
    decisions = np.array([*answers, None], dtype=object)[:-1] if numbers is None else numbers
    return replace(judged, decisions=decisions, scores=scores, events={})
