"""A part laid on a tray is taken as it was, by another process too, however large the one before was."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tidemill.stores.parts import Lost, Part
from tidemill.stores.tray import Tray, new_file


def part(number: int, num_rows: int, num_bytes: int = 10) -> Part:
    texts = [f"{row}".rjust(num_bytes, "é") for row in range(num_rows)]
    table = pa.table({"text": pa.array(texts, pa.string()), "kind": pa.array(["a"] * num_rows).dictionary_encode()})
    return Part(number=number, table=table, rows=np.arange(num_rows) * 3 + number, lost=[Lost(7, "why")])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3000)), min_size=1, max_size=6))
def test_parts_of_any_sizes_follow_each_other(sizes: list[tuple[int, int]]) -> None:
    tray = Tray(new_file())
    other = Tray(open(tray.descriptor, "rb", buffering=0, closefd=False))  # noqa: SIM115  as a process has it
    for number, (num_rows, num_bytes) in enumerate(sizes):
        laid = part(number, num_rows, num_bytes)
        taken = other.take(number, tray.lay(laid), [list(one) for one in laid.lost])
        assert (taken.number, taken.rows.tolist(), taken.lost) == (number, laid.rows.tolist(), laid.lost)
        assert taken.table.equals(laid.table)
    tray.close()


def test_another_process_takes_what_was_laid() -> None:
    tray = Tray(new_file())
    size = tray.lay(part(4, 1000))
    code = (
        "import os, sys; from tidemill.stores.tray import Tray; "
        "found = Tray(os.fdopen(int(sys.argv[1]), 'rb')).take(4, int(sys.argv[2]), []);"
        "print(found.table['text'][999].as_py().encode().hex(), found.rows.sum())"
    )
    command = [sys.executable, "-c", code, str(tray.descriptor), str(size)]
    done = subprocess.run(command, pass_fds=[tray.descriptor], capture_output=True, text=True, check=True)
    tray.close()
    laid = part(4, 1000)
    assert done.stdout.split() == [laid.table["text"][999].as_py().encode().hex(), str(laid.rows.sum())]
