"""Files of tables: pieces of the same columns, figures as figures, and other searches have their turn in between."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from letters import letters
from page_served import Serve, Served

from tidemill.app import App
from tidemill.dashboard import page, wanted
from tidemill.dashboard.files import handed_table
from tidemill.dashboard.inputs import written
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings
from tidemill.dashboard.table import Column, Row, Table
from tidemill.dashboard.view import Asked, File, View
from tidemill.dashboard.views import predictions


def table(*values: str) -> Table:
    rows = [Row(cells={"a": value}) for value in values]
    return Table(name="t", title="T", columns=[Column(key="a", title="A")], rows=rows)


def test_a_file_has_the_same_columns_whichever_piece_a_failed_request_is_in(tmp_path: Path, serve: Serve) -> None:
    """The failed one is the oldest of 250, and the first piece has 100."""
    app = letters(tmp_path, [f"note {i}" for i in range(250)], failed={0})
    head, *rows = csv.reader(io.StringIO(serve(app).client.get("/predictions/predictions.csv").text))
    assert {len(row) for row in rows} == {len(head)}
    states = [dict(zip(head, row, strict=True))["state"] for row in rows]
    assert states == [""] * 249 + ["failed"]
    app.close()


def test_figures_below_zero_are_figures_in_files(shared: Served) -> None:
    for path in ("/predictions/predictions.csv", "/datasets/rows.csv?number=2"):
        found = csv.DictReader(io.StringIO(shared.client.get(path).text))
        assert min(float(row["input.x"]) for row in found) < 0
    assert [written(value) for value in (-1.5, -2, True, None, "-x", b"")] == [-1.5, -2, True, None, "-x", None]


def test_after_parts_of_the_log_without_rows_as_many_are_taken_at_a_time_as_before(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    drawn = predictions._table

    def counted(asked: Any, found: Any) -> Any:
        looks.append(len(found.rows))
        return drawn(asked, found)

    monkeypatch.setattr(predictions, "_table", counted)
    monkeypatch.setattr(wanted, "_LOOKS_AT_INPUTS", 200)
    app = letters(tmp_path, [f"{'old' if i < 100 else 'new'} {i}" for i in range(1_000)], num_files=10)
    text = serve(app).client.get("/predictions/predictions.csv?where=starts_with(note, 'old')").text
    assert len(text.splitlines()) == 101
    assert looks[0] == 0 and 100 in looks, "those that are there come at once"
    app.close()


def test_another_search_has_its_turn_between_pieces_and_who_goes_away_ends_a_file() -> None:
    """10,000 parts of the log hold no row that is wanted; the other search comes in long before the last of them."""
    seen: list[object] = []

    def pieces() -> Iterator[Table]:
        yield table("x")
        for number in range(10_000):
            seen.append(number)
            yield table()

    async def ask() -> None:
        limiter = CapacityLimiter(1)
        answer = handed_table("t", pieces(), limiter)

        async def read() -> None:
            async for _ in answer.body_iterator:  # type: ignore[attr-defined]
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            while not seen:
                await anyio.lowlevel.checkpoint()
            await run_sync(seen.append, "other", limiter=limiter)
            group.cancel_scope.cancel()

    thread = threading.Thread(target=anyio.run, args=(ask,))
    thread.start()
    thread.join()
    assert "other" in seen and len(seen) < 10_000


def test_a_file_whose_turn_has_come_is_not_refused_because_others_wait(
    shared_app: App, serve_site: Callable[[Site], httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MOST_SEARCHING", 1)
    monkeypatch.setattr(page, "_MOST_WAITING", 1)
    begun = threading.Event()

    def pieces(_: Asked) -> Iterator[Table]:
        begun.set()
        deadline = time.monotonic() + 30
        while not site._searching.statistics().tasks_waiting and time.monotonic() < deadline:
            time.sleep(0.001)
        assert site._searching.statistics().tasks_waiting, "somebody waits"
        yield table("x")
        yield table("y")

    view = View(
        path="/predictions", name="Predictions", group="Look", icon="predictions", searches=frozenset({"where"}),
        show=lambda _: File(body=b"", media="text/plain"), tables={"t": lambda _: table()}, files={"t": pieces},
    )  # fmt: skip
    site = Site(shared_app, Settings(user="ann"), (view,))
    client, answers = serve_site(site), list[httpx.Response]()
    first = threading.Thread(target=lambda: answers.append(client.get("/predictions/t.csv?where=x")))
    first.start()
    begun.wait()
    client.get("/predictions?where=x")  # it waits until the file's first piece is there
    first.join()
    assert (answers[0].status_code, answers[0].text) == (200, "a\nx\ny\n")
