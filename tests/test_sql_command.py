"""`tidemill sql` from the shell: three forms, a limit, and refusals in one line with the next move."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tidemill.app import App
from tidemill.clock import micros
from tidemill.records import Feedback, Prediction
from tidemill.stores.segments import Batch, SegmentWriter

PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression

project = tm.Project(
    name="shop",
    inputs={"text": tm.Text(), "photo": tm.Image((2, 2)), "country": tm.Category(tag=True)},
    output=tm.Classes(["ok", "bad"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
    metrics=[tm.metrics.Accuracy(), tm.metrics.EventRate("buy", higher_is_better=True)],
    projections={"loud": lambda row: row["text"].isupper()},
)
""".replace('lambda row: row["text"].isupper()', "is_loud").replace(
    "project = ", 'def is_loud(row):\n    return row["text"].isupper()\n\n\nproject = '
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project and three logged requests."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "project.py").write_text(PROJECT)
    app = App.open(str(folder / "project.py"), folder / ".tidemill")
    now = micros(app.clock.now())
    rows = [
        Prediction(
            request_id=f"r{i}", received_at=now - 5_000_000 + i, role="answer", unit="u", subject=None, rollout=None,
            share=0.0, salt="", route_revision=1, assigned_version=1, answered_version=1, fallback_reason=None,
            error=None, policy_version=1, tags={"country": "NL"}, inputs={"text": text, "photo": b"\0\1\2\3"},
            scores=[0.25, 0.75], decision="ok", abstained=False, cached=False, latency_ms=1.5, keep_probability=1.0,
        )
        for i, text in enumerate(["AH", 'say "é", ok', "hm"])
    ]  # fmt: skip
    said = {"received_at": now, "source": "http", "trust": "crowd"}
    facts = [
        Feedback(request_id="r0", kind="label", value="bad", **said),
        Feedback(request_id="r1", kind="buy", value=3.0, **said),
    ]
    writer = SegmentWriter(app.world.home.segments, "gw", low_at=now - 9_000_000)
    writer.append(msgspec.msgpack.encode(Batch(project="shop", predictions=rows, feedback=facts)))
    writer.close()
    app.engine().drain()
    app.close()
    return folder


def tidemill(shop: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidemill.cli", "sql", *arguments]
    return subprocess.run(command, cwd=shop, capture_output=True, text=True, check=False, timeout=60)


def test_csv_has_the_line_ends_of_a_shell(shop: Path) -> None:
    command = [sys.executable, "-m", "tidemill.cli", "sql", "SELECT 1 AS one", "--format", "csv"]
    assert subprocess.run(command, cwd=shop, capture_output=True, check=True, timeout=60).stdout == b"one\n1\n"


QUERY = "SELECT request_id, text, photo, scores, loud, label, event_buy FROM outcomes ORDER BY received_at"


def test_rows_come_as_a_table_json_or_csv(shop: Path) -> None:
    table, as_json, as_csv = (tidemill(shop, QUERY, *f) for f in ((), ("--format", "json"), ("--format", "csv")))
    assert [done.returncode for done in (table, as_json, as_csv)] == [0, 0, 0]
    assert [done.stderr for done in (table, as_json, as_csv)] == ["", "", ""]
    found = json.loads(as_json.stdout)
    assert found[0] == {"request_id": "r0", "text": "AH", "photo": "AAECAw==", "scores": [0.25, 0.75], "loud": True,
                        "label": "bad", "event_buy": 0.0}  # fmt: skip
    assert [(row["label"], row["event_buy"], row["loud"]) for row in found[1:]] == [
        (None, 3.0, False),
        (None, 0.0, False),
    ]
    rows = list(csv.reader(io.StringIO(as_csv.stdout)))
    assert rows[0] == ["request_id", "text", "photo", "scores", "loud", "label", "event_buy"]
    assert rows[2] == ["r1", 'say "é", ok', "AAECAw==", "[0.25, 0.75]", "False", "", "3.0"]
    assert "request_id" in table.stdout
    assert "AAECAw==" in table.stdout


def test_a_limit_leaves_rows_out_and_says_so(shop: Path) -> None:
    done = tidemill(shop, "SELECT request_id FROM predictions", "--format", "csv", "--limit", "2")
    assert (len(done.stdout.splitlines()), done.returncode) == (3, 0)
    assert done.stderr == "these are the first 2 rows; see more with --limit\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["SELECT * FROM read_text('/etc/passwd')"], "read_text"),
        (["COPY predictions TO 'x.csv'"], "no SELECT"),
        (["SELECT * FROM leases"], "predictions, feedback, outcomes, examples"),
        (["SELECT count(*) FROM range(100000000000) a, range(9) b", "--timeout", "300ms"], "0.3 s"),
        (["SELECT 1", "--timeout", "soon"], "--timeout"),
        (["SELECT 1", "--memory", "lots"], "500MB"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_the_next_move(shop: Path, arguments: list[str], named: str) -> None:
    done = tidemill(shop, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith(" next: ")
    assert named in done.stderr
    assert not list(shop.glob("*.csv"))


def test_the_columns_of_a_table_can_be_asked_for(shop: Path) -> None:
    done = tidemill(shop, "DESCRIBE outcomes", "--format", "json")
    found = {row["column_name"]: row["column_type"] for row in json.loads(done.stdout)}
    assert {"received_at": "TIMESTAMP", "text": "VARCHAR", "photo": "BLOB", "label": "VARCHAR"}.items() <= found.items()


def test_the_reservoir_is_asked_in_the_same_way(shop: Path) -> None:
    done = tidemill(shop, "SELECT count(*) AS n, max(labelled_at) AS at FROM examples", "--format", "json")
    assert json.loads(done.stdout) == [{"n": 0, "at": None}]
