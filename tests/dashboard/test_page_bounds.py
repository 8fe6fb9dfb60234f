"""However long texts are, however many rows and whatever is asked: memory, bytes and time have their bounds."""

from __future__ import annotations

import csv
import html
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letters import letters
from page_served import Serve

from tidemill.app import App
from tidemill.dashboard import live
from tidemill.dashboard.inputs import Room, shown_inputs
from tidemill.dashboard.live import Live
from tidemill.dashboard.measured import Measured
from tidemill.dashboard.view import File
from tidemill.dashboard.views import predictions
from tidemill.schema import Classes, Image, Schema, Text

HOSTILE = f"regexp_matches(note, '{'(a?b?){1000}' * 50}z')"


@pytest.mark.parametrize("query", ["", "?where=length(note) > 3"])
def test_a_file_of_long_texts_is_written_a_few_at_a_time(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """120 texts of 200 kB are a file in pieces of at most a few, and every row is in it once, in order."""
    taken: list[int] = []
    table = predictions._table

    def counted(asked: Any, found: Any) -> Any:
        taken.append(int(found.rows.estimated_size()))
        return table(asked, found)

    monkeypatch.setattr(predictions, "_table", counted)
    monkeypatch.setattr(predictions, "_FIRST_PIECE", 10)
    app = letters(tmp_path, [f"{i} " + "é\x00" * 100_000 for i in range(120)])
    answer = serve(app).client.get(f"/predictions/predictions.csv{query}")
    rows = list(csv.DictReader(io.StringIO(answer.text.replace("\x00", ""))))
    assert [row["request"] for row in rows] == [f"r{i:07}" for i in reversed(range(120))]
    assert len(taken) > 5 and max(taken) < 12 << 20, "the rows together are 36 MB"
    assert all(len(row["input.note"]) <= 10_000 for row in rows)
    app.close()


def test_a_file_goes_on_over_all_pages_and_has_one_head(tmp_path: Path, serve: Serve) -> None:
    app = letters(tmp_path, [f"note {i}" for i in range(2_500)])
    answer = serve(app).client.get("/predictions/predictions.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["request"] for row in rows] == [f"r{i:07}" for i in reversed(range(2_500))]
    assert answer.text.count("request") == 1
    found = serve(app).client.get("/predictions/predictions.csv?where=ends_with(note, '7')").text
    assert len(found.splitlines()) == 251
    app.close()


def test_searches_that_nothing_interrupts_end_and_hold_up_no_other_view(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty of them: more than there are threads. Other views answer meanwhile, and each of these says what it was."""
    monkeypatch.setattr("tidemill.dashboard.wanted.LIMIT_S", 1.5)
    monkeypatch.setattr("tidemill.dashboard.page._MOST_WAITING", 4)  # behind the four that look: twice the limit in all
    app = letters(tmp_path, ["a" * 10_000] * 3)
    served = serve(app)
    answers: list[tuple[int, str]] = []

    def search() -> None:
        answer = served.client.get("/predictions", params={"where": HOSTILE}, timeout=120)
        answers.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=search) for _ in range(60)]
    for thread in threads:
        thread.start()
    between = [served.client.get(path).status_code for path in ("/models", "/audit", "/predictions") for _ in range(5)]
    num_before = len(answers)
    for thread in threads:
        thread.join()
    assert set(between) == {200}
    assert num_before < 60, "the other views answered while searches were under way"
    assert {status for status, _ in answers} <= {422, 503}
    told = html.unescape(next(text for status, text in answers if status == 422)).partition('"error-page')[2].lower()
    assert "regexp_matches" in told and "took longer than" in told and "look at less time" in told
    assert "searches" in next(text for status, text in answers if status == 503)
    app.close()


def test_much_feedback_on_one_request_is_shown_in_part(tmp_path: Path, serve: Serve) -> None:
    app = letters(tmp_path, ["a"], told=3_000)
    text = serve(app).client.get("/predictions/r0000000").text
    assert len(text) < 300_000 and "200 of 3,000" in text
    app.close()


def test_parts_that_are_kept_weigh_no_more_than_they_may(shared_app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_BYTES", 1_000_000)
    made = Live(shared_app, Measured(shared_app.clock))
    body = np.random.default_rng(0).bytes(100_000)  # it packs badly
    for number in range(50):
        kept = made.kept(number, ("route",), lambda: File(body=body, media="text/html"))
        assert kept.file.body == body
        assert sum(place.num_bytes for place in made._kept.values()) <= 1_000_000
    assert list(made._kept)[-1] == 49, "what was asked for last stays"
    made.kept("huge", ("route",), lambda: File(body=body * 20, media="text/html"))
    assert sum(place.num_bytes for place in made._kept.values()) <= 1_000_000


def test_pictures_and_texts_fill_a_part_to_its_room_and_what_is_left_out_is_said() -> None:
    schema = Schema({"photo": Image((512, 512, 3)), "note": Text(max_chars=2_000_000)}, Classes(["a", "b"]))
    room = Room(3 << 20)
    row = {"photo": np.random.default_rng(0).bytes(512 * 512 * 3), "note": "é" * 1_000_000}
    shown = [one for _ in range(40) for one in shown_inputs(schema, row, room)]
    assert sum(len(one.url) + len(one.text.encode()) for one in shown) <= (3 << 20) + 80 * 100
    assert shown[0].kind == "picture" and shown[1].text.startswith("é")
    last = shown[-2:]
    assert all(one.kind == "figure" and "left out" in one.text for one in last)
    assert {one.note.split(",")[0] for one in last} == {"Image 512×512×3", "Text"}
    assert any(0 < len(one.url) < len(shown[0].url) / 3 for one in shown), "pictures become smaller first"
