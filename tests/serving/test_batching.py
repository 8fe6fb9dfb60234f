"""A free version takes what has arrived, at most `max_batch`, at once; one bad row fails alone."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from artefacts import NAN, PYTHON_MODELS, RAISES, expected, graph, onnx_artefact, python_artefact
from python_models import DAWDLES

from tidemill.runtime.load import load
from tidemill.serving.batching import NOT_FINITE, RAISED, TIMEOUT, Batcher, Row, score

SCHEMA_ROW = {"age": 1.0, "country": "nl"}


def canonical(first: float) -> dict:
    return {"x": np.array([first, 0, 0, 0], "<f4").tobytes(), **SCHEMA_ROW}


@pytest.fixture
def python_models() -> str:
    return str(PYTHON_MODELS)


@pytest.fixture
def loaded(tmp_path):
    return load(onnx_artefact(tmp_path / "a", graph(1, touchy=True)))


class Bench:
    """A batcher in a running loop, and the batches that came out of it."""

    def __init__(self, loaded, **settings) -> None:
        self.batches: list[tuple[str, list[float]]] = []
        self.batcher = Batcher(
            loaded,
            done=lambda rows, scored: self._note("answer", rows, scored),
            shadowed=lambda rows, scored: self._note("shadow", rows, scored),
            **{"max_batch": 4, "inline": True, **settings},
        )

    def _note(self, role, rows, scored) -> None:
        assert len(scored.scores) == len(rows)
        self.batches.append((role, [float(np.frombuffer(row.inputs["x"], "<f4")[0]) for row in rows]))

    def row(self, first: float) -> Row:
        return Row(inputs=canonical(first), deadline=time.monotonic() + 10)

    async def settled(self, num_rows: int) -> None:
        while sum(len(rows) for _, rows in self.batches) < num_rows:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("inline", [True, False])
def test_what_has_arrived_together_is_one_batch_and_none_is_larger_than_the_limit(loaded, inline):
    async def main() -> Bench:
        bench = Bench(loaded, inline=inline)
        for first in range(10):
            bench.batcher.put(bench.row(-first))
        await bench.settled(10)
        bench.batcher.close()
        return bench

    batches = asyncio.run(main()).batches
    assert batches == [("answer", [0, -1, -2, -3]), ("answer", [-4, -5, -6, -7]), ("answer", [-8, -9])]


def test_a_lone_row_does_not_wait_for_company(loaded):
    async def main() -> float:
        bench = Bench(loaded)
        begun = time.perf_counter()
        bench.batcher.put(bench.row(0))
        await bench.settled(1)
        return time.perf_counter() - begun

    assert asyncio.run(main()) < 0.5


def test_shadows_run_only_when_nobody_waits_and_their_queue_is_bounded(loaded):
    async def main() -> Bench:
        bench = Bench(loaded)
        refused = bench.batcher.put_shadows([bench.row(-i) for i in range(20)])
        assert len(refused) == 4
        for first in range(6):
            bench.batcher.put(bench.row(-first))
        await bench.settled(22)
        return bench

    assert [role for role, _ in asyncio.run(main()).batches] == ["answer"] * 2 + ["shadow"] * 4


def test_rows_that_gave_up_waiting_are_passed_over(loaded):
    async def main() -> Bench:
        bench = Bench(loaded)
        rows = [bench.row(-i) for i in range(4)]
        for row in rows:
            bench.batcher.put(row)
        rows[1].waits_in = rows[2].waits_in = None
        await bench.settled(2)
        return bench

    assert asyncio.run(main()).batches == [("answer", [0, -3])]


def test_a_version_that_turns_out_slow_leaves_the_loop_for_a_thread(tmp_path):
    slow = load(onnx_artefact(tmp_path / "slow", graph(1, width=2048)))

    async def main() -> tuple[bool, bool]:
        bench = Bench(slow)
        before = bench.batcher.inline
        bench.batcher.put(bench.row(0))
        await bench.settled(1)
        bench.batcher.put(bench.row(0))
        await bench.settled(2)
        bench.batcher.close()
        return before, bench.batcher.inline

    assert asyncio.run(main()) == (True, False)


def test_a_version_that_was_slow_comes_back_to_the_loop_once_it_is_quick(loaded):
    async def main() -> list[bool]:
        bench, seen = Bench(loaded), []
        bench.batcher.inline = False  # as after two batches that the machine held up
        for number in range(150):
            bench.batcher.put(bench.row(0))
            await bench.settled(number + 1)
            seen.append(bench.batcher.inline)
        bench.batcher.close()
        return seen

    assert asyncio.run(main())[-1]


def test_a_batch_with_bad_rows_gives_the_others_their_scores(loaded):
    firsts = [0.0, RAISES + 1, -1.0, (NAN + RAISES) / 2, 0.25]
    scored = score(loaded, [canonical(first) for first in firsts])
    assert {i: failure.reason for i, failure in scored.failures.items()} == {1: RAISED, 3: NOT_FINITE}
    good = [0, 2, 4]
    wanted = expected(graph(1, touchy=True), [[firsts[i], 0, 0, 0] for i in good])
    np.testing.assert_allclose(scored.scores[good], wanted, rtol=1e-6)


def test_rows_are_not_tried_singly_when_nobody_waits_any_more(loaded):
    rows = [canonical(RAISES + 1), canonical(0), canonical(0)]
    scored = score(loaded, rows, until=time.monotonic() - 1)
    assert {failure.reason for failure in scored.failures.values()} == {TIMEOUT}
    assert len(scored.failures) == 3
    assert score(loaded, rows).failures.keys() == {0}


def test_a_free_copy_takes_what_comes_while_another_is_at_work(tmp_path, python_models):
    loaded = load(python_artefact(tmp_path / "p", "Fickle"), project_file=python_models, copies=2)

    async def main() -> Bench:
        bench = Bench(loaded, inline=False)
        bench.batcher.put(bench.row(DAWDLES))  # a second
        await asyncio.sleep(0.2)
        for first in (1, 2, 3):
            bench.batcher.put(bench.row(first))
            await bench.settled(first)
        assert not bench.batcher.is_stuck
        await bench.settled(4)
        bench.batcher.close()
        return bench

    try:
        assert [rows for _, rows in asyncio.run(main()).batches] == [[1], [2], [3], [DAWDLES]]
    finally:
        loaded.close()


def test_copies_that_are_free_share_what_has_come(tmp_path, python_models):
    loaded = load(python_artefact(tmp_path / "p", "Fickle"), project_file=python_models, copies=2)

    async def main() -> Bench:
        bench = Bench(loaded, inline=False, max_batch=64)
        for first in range(7):
            bench.batcher.put(bench.row(first))
        await bench.settled(7)
        bench.batcher.close()
        return bench

    try:
        assert sorted(rows for _, rows in asyncio.run(main()).batches) == [[0, 1, 2, 3], [4, 5, 6]]
    finally:
        loaded.close()
