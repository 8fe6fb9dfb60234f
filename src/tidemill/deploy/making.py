"""One part of a batch prediction: checked, predicted, decided, and written to disk whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.clock import Clock, micros
from tidemill.deploy.task import Task
from tidemill.errors import InvalidInput, ModelError
from tidemill.policy import Policy
from tidemill.records import Json
from tidemill.runtime.load import Loaded, load
from tidemill.schema import Array, Classes, Schema
from tidemill.stores.checked import check_table
from tidemill.stores.folders import whole_file
from tidemill.stores.parts import Part

_TIMEOUT_S = 600.0  # of a Python model's batch: nobody waits for an answer
_TIME = pa.timestamp("us", tz="UTC")
_REFUSED = [("row", pa.int64()), ("field", pa.string()), ("reason", pa.string())]


def part_file(workdir: Path, number: int) -> Path:
    """Return where a part's predictions are; the part is done when they are there."""
    return workdir / f"part-{number:08}.arrow"


def refused_file(workdir: Path, number: int) -> Path:
    """Return where the rows of a part are that were refused, if there are any."""
    return workdir / f"refused-{number:08}.arrow"


def made_schema(kept: pa.Schema, schema: Schema, policy: Policy) -> pa.Schema:
    """Return the columns of the output: those kept (else the row's number), and what is predicted."""
    decision = pa.string() if isinstance(schema.output, Classes) else pa.float64()
    top_k = [("top_k", pa.list_(pa.string()))] if policy.top > 1 else []
    return pa.schema([
        *(kept if len(kept) else [("row", pa.int64())]),
        ("decision", decision), ("abstained", pa.bool_()), ("scores", pa.list_(pa.float32(), schema.output.num_scores)),
        *top_k, ("version", pa.int64()), ("predicted_at", _TIME), ("policy_version", pa.int64()),
    ])  # fmt: skip


def refused_schema(kept: pa.Schema) -> pa.Schema:
    """Return the columns of the file of refused rows."""
    return pa.schema([*_REFUSED[:1], *kept, *_REFUSED[1:]])


@dataclass(frozen=True)
class _Scored:
    scores: Array
    at: Array


class Maker:
    """Makes parts with one loaded version."""

    def __init__(self, task: Task, loaded: Loaded, clock: Clock) -> None:
        self._task, self._loaded, self._clock = task, loaded, clock
        self._workdir = Path(task.workdir)
        self._schema = Schema.from_json(task.schema)
        self._policy = Policy.from_json(task.policy)

    def make(self, part: Part) -> Json:
        """Predict a part and write it; return how many rows were predicted and refused.

        Raises:
            InvalidInput: a row does not fit, and bad rows are not skipped.
            ModelError: the model raised, crashed or hung.
        """
        task, num = self._task, len(part.table)
        checked = check_table(self._schema, part.table, wanted=self._loaded.inputs, key=task.key, typed=task.typed)
        refused = [(int(part.rows[at]), field, reason) for at, field, reason in checked.refused]
        refused += [(one.row, "", one.reason) for one in part.lost]
        good, columns = np.flatnonzero(checked.good), checked.columns
        outside = self._outside(columns)
        if outside:
            refused += [(int(part.rows[good[at]]), name, reason) for at, name, reason in outside]
            inside = np.delete(np.arange(len(good)), [at for at, _, _ in outside])
            good, columns = good[inside], {name: column[inside] for name, column in columns.items()}
        self._check(refused)
        scored = self._scores(columns, len(good), part)
        finite = np.isfinite(scored.scores).all(axis=1)
        refused += [(int(part.rows[at]), "", "the model's scores are NaN or infinite") for at in good[~finite]]
        self._check(refused)
        if refused:
            self._write(refused_file(self._workdir, part.number), self._refused(part, sorted(refused)))
        if not finite.all():
            scored, good = _Scored(scored.scores[finite], scored.at[finite]), good[finite]
        self._write(part_file(self._workdir, part.number), self._made(part, good if len(good) < num else None, scored))
        return {"rows": len(good), "refused": len(refused)}

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
            hint = "mend it, or leave such rows out with --on-bad-row skip"
            raise InvalidInput(f"row {row}: {reason.rstrip('.')}.", hint, field)

    def _scores(self, columns: dict[str, Array], num: int, part: Part) -> _Scored:
        """Predict in batches; each has its own time."""
        scores = np.empty((num, self._schema.output.num_scores), dtype=np.float32)
        at = np.empty(num, dtype=np.int64)
        size = self._task.batch_rows
        for begin in range(0, num, size):
            batch = {name: column[begin : begin + size] for name, column in columns.items()}
            try:
                scores[begin : begin + size] = self._loaded.predict(batch, finite=False)
            except ModelError as error:
                rows = f"among rows {part.rows[0]} to {part.rows[-1]}: "
                raise type(error)(rows + error.message, error.hint) from error
            at[begin : begin + size] = micros(self._clock.now())
        return _Scored(scores, at)

    def _made(self, part: Part, good: Array | None, scored: _Scored) -> pa.Table:
        task, num = self._task, len(scored.at)
        decided = self._policy.decide(self._schema.output, scored.scores)
        rows = part.table.select(task.keep) if task.keep else pa.table({"row": part.rows})
        columns = dict(
            zip(rows.column_names, (rows if good is None else rows.take(pa.array(good))).columns, strict=True)
        )
        flat = pa.array(np.ascontiguousarray(scored.scores).reshape(-1))
        columns |= {
            "decision": pa.array(decided.decisions),
            "abstained": pa.array(np.array(decided.abstained, dtype=bool)),
            "scores": pa.FixedSizeListArray.from_arrays(flat, self._schema.output.num_scores),
            "top_k": pa.array(decided.top_k or [], pa.list_(pa.string())),
            "version": pa.array(np.full(num, task.version)),
            "predicted_at": pa.array(scored.at).cast(_TIME),
            "policy_version": pa.array(np.full(num, task.policy_version)),
        }
        fields = made_schema(part.table.select(task.keep).schema, self._schema, self._policy)
        return pa.table({f.name: columns[f.name] for f in fields}).cast(fields)

    def _refused(self, part: Part, refused: Sequence[tuple[int, str, str]]) -> pa.Table:
        """Return refused rows with the columns that are kept, unknown for rows that could not be read."""
        fields = refused_schema(part.table.select(self._task.keep).schema)
        numbers, names, reasons = zip(*refused, strict=True)
        place = {int(row): at for at, row in enumerate(part.rows)}
        at = pa.array([place.get(number) for number in numbers], pa.int64())
        columns: dict[str, Any] = {"row": numbers, "field": names, "reason": reasons}
        columns |= {name: part.table.column(name).take(at) for name in self._task.keep}
        return pa.table({f.name: columns[f.name] for f in fields}, schema=fields)

    def _write(self, path: Path, table: pa.Table) -> None:
        with whole_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def load_for(task: Task) -> Loaded:
    """Load the version of a task, on one thread: parts are what runs side by side."""
    return load(Path(task.folder), project_file=task.project_file, threads=1, timeout_s=_TIMEOUT_S)


Make = Callable[[Part], Json]
