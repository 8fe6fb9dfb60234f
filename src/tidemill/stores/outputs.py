"""The parts of a job's output in its work folder: each whole under its name, synced, or not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.schema import Array, Classes, Output
from tidemill.stores.folders import whole_file
from tidemill.stores.parts import Fields, Part, Table

MADE = ("decision", "abstained", "scores", "version", "predicted_at", "policy_version")
"""The columns that a prediction adds; `top_k` comes with a policy that tells more than one class."""

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of an output: those kept, else the number of the row, and what is predicted."""

    kept: Fields
    made: Fields
    refused: Fields

    @classmethod
    def of(cls, table: Table, keep: Sequence[str], output: Output, *, top_k: bool) -> Layout:
        """Return what comes of a table of which `keep` is kept."""
        kept = table.select(list(keep)).schema
        row = pa.field("row", pa.int64())
        decision = pa.string() if isinstance(output, Classes) else pa.float64()
        made = [
            ("decision", decision), ("abstained", pa.bool_()), ("scores", pa.list_(pa.float32(), output.num_scores)),
            *([("top_k", pa.list_(pa.string()))] if top_k else []),
            ("version", pa.int64()), ("predicted_at", _TIME), ("policy_version", pa.int64()),
        ]  # fmt: skip
        return cls(
            kept=kept,
            made=pa.schema([*(kept if len(kept) else [row]), *made]),
            refused=pa.schema([row, *kept, ("field", pa.string()), ("reason", pa.string())]),
        )


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was predicted of N rows: `scores` float32 (N, K), `at` in microseconds int64 (N,)."""

    decisions: Sequence[Any]
    abstained: Sequence[bool]
    top_k: Sequence[Sequence[str]] | None
    scores: Array
    at: Array
    version: int
    policy_version: int


class PartFiles:
    """Reads and writes the parts of one job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # ---- predicted and refused rows

    def add(self, part: Part, layout: Layout, rows: Array, predicted: Predicted) -> None:
        """Write what was predicted of `rows`, the places of rows in the part: with that it is done."""
        kept = part.table.select(layout.kept.names) if len(layout.kept) else pa.table({"row": part.rows})
        columns = kept if len(rows) == len(part.table) else kept.take(pa.array(rows))
        table = pa.table({**dict(zip(kept.column_names, columns.columns, strict=True)), **_arrays(predicted)})
        self._write(self._made(part.number), table.select(layout.made.names).cast(layout.made))

    def add_refused(self, part: Part, layout: Layout, refused: Sequence[tuple[int, str, str]]) -> None:
        """Write refused rows (number, input, reason); what is kept is unknown of those that could not be read."""
        numbers, names, reasons = zip(*refused, strict=True)
        place = {int(row): at for at, row in enumerate(part.rows)}
        at = pa.array([place.get(number) for number in numbers], pa.int64())
        columns: dict[str, Any] = {"row": numbers, "field": names, "reason": reasons}
        columns |= {name: part.table.column(name).take(at) for name in layout.kept.names}
        self._write(self._refused(part.number), pa.table({n: columns[n] for n in layout.refused.names}, layout.refused))

    def done(self) -> set[int]:
        """Return the numbers of the parts that are done."""
        return {int(path.stem.partition("-")[2]) for path in self._folder.glob("part-*.arrow")}

    def counts(self) -> tuple[int, int]:
        """Return how many rows were predicted and refused in the parts that are done."""
        done = self.done()
        refused = (self._refused(number) for number in done)
        made = sum(len(_read(self._made(number))) for number in done)
        return made, sum(len(_read(path)) for path in refused if path.exists())

    def made(self, first: int = 0) -> Iterator[Table]:
        """Yield what was predicted from part `first` on, up to the first part that is not done."""
        number = first
        while (path := self._made(number)).exists():
            yield _read(path)
            number += 1

    def refused(self) -> list[Table]:
        """Return the refused rows, by part."""
        return [_read(path) for path in sorted(self._folder.glob("refused-*.arrow"))]

    def span(self) -> tuple[datetime, datetime] | None:
        """Return when the first and the last row were predicted, None of no rows."""
        times = [pc.min_max(table.column("predicted_at")).as_py() for table in self.made() if len(table)]
        return (min(t["min"] for t in times), max(t["max"] for t in times)) if times else None

    def sweep(self) -> None:
        """Delete what a killed process left half done."""
        for left in self._folder.glob("*.part"):
            left.unlink()

    def _made(self, number: int) -> Path:
        return self._folder / f"part-{number:08}.arrow"

    def _refused(self, number: int) -> Path:
        return self._folder / f"refused-{number:08}.arrow"

    def _write(self, path: Path, table: Table) -> None:
        with whole_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def _arrays(predicted: Predicted) -> dict[str, Any]:
    num, num_scores = predicted.scores.shape
    flat = pa.array(np.ascontiguousarray(predicted.scores).reshape(-1))
    return {
        "decision": pa.array(predicted.decisions),
        "abstained": pa.array(np.array(predicted.abstained, dtype=bool)),
        "scores": pa.FixedSizeListArray.from_arrays(flat, num_scores),
        "top_k": pa.nulls(num) if predicted.top_k is None else pa.array(predicted.top_k, pa.list_(pa.string())),
        "version": pa.array(np.full(num, predicted.version)),
        "predicted_at": pa.array(predicted.at).cast(_TIME),
        "policy_version": pa.array(np.full(num, predicted.policy_version)),
    }


def _read(path: Path) -> Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
