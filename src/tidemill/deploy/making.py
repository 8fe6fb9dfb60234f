"""One part of a batch prediction: checked, predicted, decided, and written to disk whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tidemill.clock import Clock, micros
from tidemill.deploy.task import Task
from tidemill.errors import InvalidInput, ModelError
from tidemill.policy import Policy
from tidemill.records import Json
from tidemill.runtime.load import Loaded, load
from tidemill.schema import Array, Schema
from tidemill.stores.checked import check_table
from tidemill.stores.outputs import Layout, PartFiles, Predicted
from tidemill.stores.parts import Part

_TIMEOUT_S = 600.0  # of a Python model's batch: nobody waits for an answer
_CACHED_BYTES, _MOST_TEXTS = 1 << 21, 64


class Maker:
    """Makes parts with one loaded version."""

    def __init__(self, task: Task, loaded: Loaded, clock: Clock) -> None:
        self._task, self._loaded, self._clock = task, loaded, clock
        self._files = PartFiles(Path(task.workdir))
        self._schema = Schema.from_json(task.schema)
        self._policy = Policy.from_json(task.policy)

    def make(self, part: Part) -> Json:
        """Predict a part and write it; return how many rows were predicted and refused.

        Raises:
            InvalidInput: a row does not fit, and bad rows are not skipped.
            ModelError: the model raised, crashed or hung.
        """
        task = self._task
        checked = check_table(self._schema, part.table, wanted=self._loaded.inputs, key=task.key, typed=task.typed)
        good, columns = np.flatnonzero(checked.good), checked.columns
        refused = [(int(part.rows[at]), field, reason) for at, field, reason in checked.refused]
        refused += [(one.row, "", one.reason) for one in part.lost]
        outside = self._outside(columns)
        if outside:
            refused += [(int(part.rows[good[at]]), name, reason) for at, name, reason in outside]
            inside = np.delete(np.arange(len(good)), [at for at, _, _ in outside])
            good, columns = good[inside], {name: column[inside] for name, column in columns.items()}
        self._check(refused)
        scores, at = self._scores(columns, len(good), part)
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            refused += [(int(row), "", "the model's scores are NaN or infinite") for row in part.rows[good[~finite]]]
            self._check(refused)
            good, scores, at = good[finite], scores[finite], at[finite]
        self._write(part, good, scores, at, sorted(refused))
        return {"rows": len(good), "refused": len(refused)}

    def _write(
        self, part: Part, good: Array, scores: Array, at: Array, refused: Sequence[tuple[int, str, str]]
    ) -> None:
        """Write refused rows, then the others, which say that the part is done."""
        task, output = self._task, self._schema.output
        layout = Layout.of(part.table, task.keep, output, top_k=self._policy.top > 1)
        if refused:
            self._files.add_refused(part, layout, refused)
        decided = self._policy.decide(output, scores)
        predicted = Predicted(
            decisions=decided.decisions, abstained=decided.abstained, top_k=decided.top_k, scores=scores, at=at,
            version=task.version, policy_version=task.policy_version,
        )  # fmt: skip
        self._files.add(part, layout, good, predicted)

    def _outside(self, columns: dict[str, Array]) -> list[tuple[int, str, str]]:
        """Return the rows with an input that the version never saw the like of, where the project refuses those."""
        if not self._schema.refused:
            return []
        found = {
            at: next((name for name in names if name in self._schema.refused), None)
            for at, names in self._loaded.ranges.outliers(columns).items()
        }
        reason = "input {!r} lies outside what the model learnt from"
        return [(at, name, reason.format(name)) for at, name in sorted(found.items()) if name is not None]

    def _check(self, refused: Sequence[tuple[int, str, str]]) -> None:
        if refused and self._task.on_bad_row == "refuse":
            row, field, reason = min(refused)
            hint = "leave such rows out with --on-bad-row skip, or mend it and begin again with --restart"
            raise InvalidInput(f"row {row}: {reason.rstrip('.')}.", hint, field)

    def _scores(self, columns: dict[str, Array], num: int, part: Part) -> tuple[Array, Array]:
        """Predict in batches; return the scores (N, K), and when in microseconds (N,).

        Small batches are transformed together, which takes less time than one by one, and have one time.
        """
        scores = np.empty((num, self._schema.output.num_scores), dtype=np.float32)
        at = np.empty(num, dtype=np.int64)
        size = self._together(columns)
        for begin in range(0, num, size):
            batch = {name: column[begin : begin + size] for name, column in columns.items()}
            try:
                scores[begin : begin + size] = self._loaded.predict(
                    batch, finite=False, batch_rows=self._task.batch_rows
                )
            except ModelError as error:
                rows = f"among rows {part.rows[0]} to {part.rows[-1]}: "
                raise type(error)(rows + error.message, error.hint) from error
            at[begin : begin + size] = micros(self._clock.now())
        return scores, at

    def _together(self, columns: dict[str, Array]) -> int:
        """Return how many rows are transformed at once: whole batches, as many as a processor's cache holds.

        Few of what is no number: what a text becomes may be a thousand times its size.
        """
        row_bytes = sum(column[:1].nbytes for column in columns.values()) * 4  # as float32, of pictures
        most = _CACHED_BYTES // max(1, row_bytes)
        if any(column.dtype == object for column in columns.values()):
            most = min(most, _MOST_TEXTS)
        size = self._task.batch_rows
        return size * max(1, most // size)


def load_for(task: Task) -> Loaded:
    """Load the version of a task."""
    return load(Path(task.folder), project_file=task.project_file, threads=task.threads, timeout_s=_TIMEOUT_S)
