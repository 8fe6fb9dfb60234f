"""How many rows of a part are in memory together as what a model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.clock import SystemClock
from tidemill.deploy.making import Maker
from tidemill.deploy.task import Task
from tidemill.model import Artefact
from tidemill.policy import Policy
from tidemill.runtime.load import Loaded
from tidemill.schema import Classes, Columns, Schema, Tensor, Text
from tidemill.stores.parts import Part

TEXTS = Schema({"text": Text()}, Classes(["calm", "storm"]))
PICTURES = Schema({"picture": Tensor((3, 64, 64))}, Classes(["calm", "storm"]))
SMALL = Schema({"few": Tensor((4,))}, Classes(["calm", "storm"]))


class Told:
    """A model that remembers how many rows it was given at once."""

    is_python, copies, device = False, 1, "cpu"

    def __init__(self) -> None:
        self.given: list[tuple[int, int | None]] = []

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Any:
        num_rows = len(next(iter(columns.values())))
        self.given.append((num_rows, batch_rows))
        return np.full((num_rows, 2), 0.5, np.float32)

    def close(self) -> None:
        """Nothing to let go of."""


def rows_of(schema: Schema, num_rows: int) -> pa.Table:
    if schema is TEXTS:
        return pa.table({"text": [f"row {i}" for i in range(num_rows)]})
    (name, kind), = schema.inputs.items()  # fmt: skip
    size = int(np.prod(kind.shape))  # type: ignore[attr-defined]
    flat = pa.array(np.zeros(num_rows * size, np.float32))
    return pa.table({name: pa.FixedSizeListArray.from_arrays(flat, size)})


@pytest.mark.parametrize(
    ("schema", "batch_rows", "together"),
    [
        (TEXTS, 8, 64),  # short as it is, a text may become a million numbers
        (TEXTS, 24, 48),
        (TEXTS, 256, 256),
        (SMALL, 1, 300),  # numbers stay as many
        (PICTURES, 8, 8),
        (PICTURES, 1, 10),
    ],
)
def test_small_batches_are_transformed_together_as_far_as_memory_is_bounded(
    tmp_path: Path, schema: Schema, batch_rows: int, together: int
) -> None:
    told = Told()
    loaded = Loaded(
        Artefact(format="onnx", schema=schema.to_json(), transforms=[], example=[]), schema, told, [*schema.inputs]
    )
    task = Task(
        folder="", project_file="", schema=schema.to_json(), policy=Policy().to_json(), policy_version=1, version=1,
        key=b"k" * 32, keep=[], typed=True, on_bad_row="refuse", batch_rows=batch_rows, threads=1,
        workdir=str(tmp_path),
    )  # fmt: skip
    num = 300
    part = Part(number=0, table=rows_of(schema, num), rows=np.arange(num))
    assert Maker(task, loaded, SystemClock()).make(part) == {"rows": num, "refused": 0}
    assert told.given == [(min(together, num - at), batch_rows) for at in range(0, num, together)]
