"""Every command that changes something is a row of the audit log: who, what, why, what came of it, by the cli."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest
from typer.core import TyperGroup

from test_cli import commands
from test_cli_suite import PROJECT, prediction
from tidemill.app import App
from tidemill.cli import main
from tidemill.clock import micros
from tidemill.stores.audit import Act, Audit
from tidemill.stores.segments import Batch, SegmentWriter

READS = {
    "status", "report", "runs", "sql", "check", "backtest", "batch", "suite list", "suite show", "suite run",
    "policy list", "alert list", "token list", "dataset list", "dataset show", "dataset diff", "dataset export",
    "label labellers", "strategy log", "strategy diff", "try",
}  # fmt: skip
"""Commands that leave what is served, labelled and learnt from as it is, or write where they are told to."""
RUNS = {"init", "up", "serve", "loop", "page", "demo", "label export"}
"""Commands that run processes, or begin a project; what `up` and `loop` publish is a row, see below."""
CHANGES = {
    "train", "curate", "import", "retrain", "approve", "reject", "promote", "rollback", "drill", "pause", "resume",
    "policy set", "policy use", "token add", "token revoke", "alert silence", "alert test", "suite add", "dataset tag",
    "forget", "label answer", "label import", "label ask", "label skip", "label golden", "label suspects",
}  # fmt: skip
QUEUE = "strategy=tm.Strategy(label=tm.label.Queue(daily_budget=100), "

Call = Callable[..., Act]


def test_every_command_is_known_to_change_something_or_not() -> None:
    leaves = {name for name, command in commands() if not isinstance(command, TyperGroup)}
    assert leaves == READS | RUNS | CHANGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a project that commands of this module are run in."""
    with pytest.MonkeyPatch.context() as patched:
        made = tmp_path_factory.mktemp("audited")
        patched.chdir(made)
        yield made


@pytest.fixture(scope="module")
def call(folder: Path) -> Iterator[Call]:
    """Run a command on a home with a model, a logged request and a task; return the newest row of the audit log."""
    (folder / "project.py").write_text(PROJECT.replace("strategy=tm.Strategy(", QUEUE))
    (folder / "suites").mkdir()
    rows = pl.DataFrame({"x": [-1.0, 1.0] * 200, "who": [f"w{i}" for i in range(400)], "label": ["low", "high"] * 200})
    rows.write_parquet(folder / "rows.parquet")
    path, known = list(sys.path), set(sys.modules)

    def run(*words: str) -> Act:
        try:
            main.run(words)
        except SystemExit as end:
            if end.code:
                raise
        with_home = App.open("project.py", ".tidemill")
        newest = Audit(with_home.db).acts(with_home.name)[0]
        with_home.close()
        return newest

    run_ = run("train", "rows.parquet")
    assert (run_.verb, run_.by, run_.via, run_.result) == (
        "train",
        getpass.getuser(),
        "cli",
        "version 1 answers all traffic",
    )
    _log_one()
    yield run
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name == "project":
            del sys.modules[name]


def _log_one() -> None:
    opened = App.open("project.py", ".tidemill")
    at = micros(opened.clock.now()) - 60_000_000
    batch = Batch(project="waves", predictions=[prediction(f"r{i}", at + i, float(i)) for i in range(5)], feedback=[])
    writer = SegmentWriter(opened.world.home.segments, "s", low_at=at)
    writer.append(msgspec.msgpack.encode(batch))
    writer.close()
    engine = opened.engine()
    engine.turn()
    engine.drain()
    opened.close()


def test_labels_and_examples_asked_for_imported_and_said_are_rows(call: Call, folder: Path) -> None:
    asked = call("curate", "x > 1", "--reason", "to see more", "--by", "ann", "--last", "1h")
    assert (asked.verb, asked.thing, asked.by, asked.reason) == ("curate", "x > 1", "ann", "to see more")
    assert asked.result == "3 of 3 requests wait for a label" and asked.via == "cli"

    said = call("label", "r2=high", "--by", "bob")
    assert (said.verb, said.thing, said.by, said.result) == ("answer", "example r2", "bob", "labelled 1")
    skipped = call("label", "skip", "r3", "--reason", "blurred", "--by", "bob")
    assert (skipped.verb, skipped.thing, skipped.reason) == ("skip", "example r3", "blurred")
    again = call("label", "ask", "r2", "r3", "--by", "eve")
    assert (again.verb, again.thing, again.by) == ("ask for labels", "2 examples", "eve")
    golden = call("label", "golden", "r2=high", "--by", "eve")
    assert (golden.verb, golden.thing) == ("make golden", "example r2")
    (folder / "said.jsonl").write_text(json.dumps({"id": "r3", "label": "low"}))
    taken = call("label", "import", "said.jsonl", "--format", "jsonl", "--by", "bob")
    assert (taken.verb, taken.thing, taken.result) == ("import labels", "said.jsonl", "labelled 1")

    pl.DataFrame({"x": [3.5], "who": ["new"], "label": ["high"]}).write_parquet("more.parquet")
    added = call("import", "more.parquet", "--by", "eve", "--reason", "from the old system")
    assert (added.verb, added.thing, added.result) == ("import", "more.parquet", "added 1 of 1 examples")
    case = call(
        "suite", "add", "past_bugs", "--from-prediction", "r4", "--label", "high", "--note", "odd", "--by", "al"
    )
    assert (case.verb, case.thing, case.by, case.reason) == ("add to suite", "suite past_bugs", "al", "odd")
    assert case.result == "1 case: r4", "no inputs, which would stay when their person is forgotten"


def test_another_declaration_that_is_published_is_a_row_and_the_same_again_is_none(call: Call, folder: Path) -> None:
    before = call("pause", "--reason", "to look at it")
    assert before.verb == "pause"
    assert call("import", "rows.parquet").verb == "import"
    opened = App.open("project.py", ".tidemill")
    published = [act for act in Audit(opened.db).acts(opened.name) if act.verb == "publish"]
    opened.close()
    assert [act.thing for act in published] == ["strategy 1"], "when the home was made"
    file = folder / "project.py"
    file.write_text(file.read_text().replace("daily_budget=100", "daily_budget=50"))
    opened = App.open("project.py", ".tidemill")
    opened.publish(by="ann")
    act = Audit(opened.db).acts(opened.name)[0]
    opened.close()
    assert (act.verb, act.thing, act.by, act.via) == ("publish", "strategy 2", "ann", "cli")


def test_a_command_that_is_refused_changes_nothing_and_is_no_row(call: Call) -> None:
    before = call("resume")
    with pytest.raises(SystemExit):
        call("curate", "no_such_column > 1")
    assert call("resume").id == before.id + 1
