"""`tidemill suite`: a logged request becomes a test case, suites are asked of versions, and reports hold them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest

from tidemill.app import App
from tidemill.cli import main
from tidemill.clock import micros
from tidemill.loop.evaluate import evaluate
from tidemill.records import Feedback, Outcome, Prediction
from tidemill.review.report import Report, evidence
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.strategy.gate import gate

PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression


def shout(inputs, rng):
    return {**inputs, "x": -inputs["x"]}


def more(inputs, rng):
    return {**inputs, "x": inputs["x"] + rng.uniform(0.5, 1)}


project = tm.Project(
    name="waves", inputs={"x": tm.Number(), "who": tm.Sensitive()}, output=tm.Classes(["low", "high"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
    suites=[
        tm.suites.Cases("past_bugs", "suites/past_bugs.jsonl"),
        tm.suites.Invariant("mirrored", shout, num=20),
        tm.suites.Directional("more", more, "up", of="high", num=20),
        tm.suites.MinimumFunctionality("basic", [({"x": 9, "who": "ab" * 16}, "high")]),
    ],
    strategy=tm.Strategy(offline=[tm.offline.Suites()]),
)
"""

Shell = Callable[..., tuple[int, str, str]]


def prediction(id_: str, at: int, x: float | None) -> Prediction:
    inputs = None if x is None else {"x": x, "who": "cd" * 16}
    return Prediction(
        request_id=id_, received_at=at, role="answer", unit="u", subject=None, rollout=None, share=0.0, salt="",
        route_revision=1, assigned_version=1, answered_version=1, fallback_reason=None, error=None, policy_version=1,
        tags={}, inputs=inputs, scores=[0.9, 0.1], decision="low", abstained=False, cached=False, latency_ms=1.0,
        keep_probability=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with version 1 and logged requests: told by a person, by a user, by nobody, and one without inputs."""
    folder, path = tmp_path_factory.mktemp("waves"), [*sys.path]
    (folder / "project.py").write_text(PROJECT)
    x = [i / 10 - 4 for i in range(80)]
    rows = pl.DataFrame({"x": x, "who": ["ann"] * 80, "label": ["high" if v > 0 else "low" for v in x]})
    rows.write_parquet(folder / "rows.parquet")
    _suite_file(folder).parent.mkdir()
    _suite_file(folder).touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.chdir(folder)
        main.run(["train", "rows.parquet"])
    app = App.open(str(folder / "project.py"), folder / ".tidemill")
    now = micros(app.clock.now())
    told = [prediction(f"r{i}", now - 5_000_000 + i, v) for i, v in enumerate([2.0, -2.0, 3.0, None])]
    said = {"kind": "label", "received_at": now, "source": "x"}
    facts = [
        Feedback(request_id="r0", value="high", trust="people", **said),
        Feedback(request_id="r1", value="high", trust="crowd", **said),
    ]
    writer = SegmentWriter(app.world.home.segments, "gw", low_at=now - 9_000_000)
    writer.append(msgspec.msgpack.encode(Batch(project="waves", predictions=told, feedback=facts)))
    writer.close()
    app.engine().drain()
    app.close()
    yield folder
    sys.path[:] = path
    sys.modules.pop("project", None)


@pytest.fixture
def shell(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in ("HOME", "PROJECT", "DATABASE"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(home)
    _suite_file(home).write_text("")
    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            main.run(arguments)
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out, said.err

    return run


def _suite_file(folder: Path) -> Path:
    return folder / "suites" / "past_bugs.jsonl"


def test_suites_are_listed_with_cases_and_versions(shell: Shell):
    rows = {row["name"]: row for row in json.loads(shell("suite", "list", "--json")[1])}
    assert {name: row["num_cases"] for name, row in rows.items()} == {
        "past_bugs": 0, "mirrored": rows["mirrored"]["num_cases"], "more": rows["more"]["num_cases"], "basic": 1,
    }  # fmt: skip
    assert 0 < rows["mirrored"]["num_cases"] <= 20
    assert len({row["version"] for row in rows.values()}) == 4
    _, table, _ = shell("suite", "list")
    assert all(name in table for name in rows)


def test_a_logged_request_becomes_a_case_that_every_version_is_asked(shell: Shell, home: Path):
    code, said, error = shell("suite", "add", "past_bugs", "--from-prediction", "r0", "--note", "big x", "--by", "ann")
    assert (code, error) == (0, "")
    assert said == f"suites/past_bugs.jsonl, line 1: x=2, who='{'cd' * 16}', wanted 'high'\n"
    line = json.loads(_suite_file(home).read_text())
    assert line["inputs"] == {"x": 2.0, "who": "cd" * 16}  # as the log has it: nothing in the clear
    assert (line["label"], line["note"]) == ("high", "big x")
    assert {k: line["from"][k] for k in ("request_id", "version", "decision", "by")} == {
        "request_id": "r0", "version": 1, "decision": "low", "by": "ann",
    }  # fmt: skip
    assert shell("suite", "run", "past_bugs")[:2] == (
        0, f"version 1, past_bugs: 1 of 1 pass; wanted 100% (suite version {_version(shell)})\n",
    )  # fmt: skip
    assert "line 1: x=2" in shell("suite", "show", "past_bugs")[1]


def test_a_case_that_the_version_fails_is_shown_and_gives_exit_code_1(shell: Shell):
    before = _version(shell)
    shell("suite", "add", "past_bugs", "--from-prediction", "r2", "--label", "low", "--note", "seen in May")
    assert _version(shell) != before
    code, said, _ = shell("suite", "run", "past_bugs", "--version", "1")
    assert code == 1
    assert "past_bugs: 0 of 1 pass" in said
    assert "wanted 'low'  (seen in May)" in said
    assert json.loads(shell("suite", "run", "past_bugs", "--json")[1])["num_failed"] == 1


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        ("add past_bugs --from-prediction r1", "'high' is what the crowd said of r1", "--label high"),
        ("add past_bugs --from-prediction r2", "nobody has said what is right for r2.", "give it with --label"),
        ("add past_bugs --from-prediction r3", "the log has no 'x' for r3", "by hand"),
        ("add past_bugs --from-prediction r9", "the log has no prediction 'r9'.", "check the id"),
        ("add past_bugs --from-prediction r0 --label up", "label 'up' is no class.", "send one of low, high"),
        ("add mirrored --from-prediction r0", "suite 'mirrored' is Invariant, which has no file.", "tm.suites.Cases"),
        ("add nothing --from-prediction r0", "the project has no suite 'nothing'.", "it has past_bugs, mirrored"),
        ("run past_bugs --version 9", "has no version 9.", ""),
    ],
)
def test_what_cannot_be_done_is_said_with_the_next_move(shell: Shell, typed: str, error: str, hint: str, home: Path):
    code, _, said = shell("suite", *typed.split())
    assert code == 1
    assert error in said
    assert hint in said
    assert _suite_file(home).read_text() == ""


def test_check_makes_the_cases_of_every_suite_and_names_the_wrong_line(shell: Shell, home: Path):
    said = shell("check", "rows.parquet")[1]
    assert "suite mirrored: " in said
    assert "suite past_bugs: it has no cases yet" in said
    _suite_file(home).write_text("{}\n")
    code, said, _ = shell("check", "rows.parquet")
    assert code == 1
    assert "past_bugs.jsonl, line 1: it has no `inputs` or no `label`" in said


def test_the_report_holds_the_suites_and_the_gate_blocks_what_fails_them(shell: Shell, home: Path):
    shell("suite", "add", "past_bugs", "--from-prediction", "r2", "--label", "low")
    app = App.open(str(home / "project.py"), home / ".tidemill")
    report = evaluate(app.world, candidate=1, live=1, dataset=app.world.catalog.model("waves", 1).dataset)
    by_name = {result.name: result for result in report.suites}
    app.close()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert by_name["past_bugs"].num_failed == by_name["past_bugs"].num_failed_live == 1
    assert by_name["mirrored"].share < 0.95  # the sign is what this model goes by
    assert by_name["more"].share == by_name["basic"].share == 1.0
    verdict = gate(app.project.strategy.offline, evidence(report, approval=None, now=app.clock.now()))
    assert verdict.outcome is Outcome.FAIL
    assert "past_bugs: 0 of 1 pass (live 0): line 1 (x=3" in verdict.reason


def _version(shell: Shell) -> str:
    return next(row["version"] for row in json.loads(shell("suite", "list", "--json")[1]) if row["name"] == "past_bugs")
