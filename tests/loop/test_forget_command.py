"""`tidemill forget` counts first, asks, and says what was deleted and who learnt from it."""

from __future__ import annotations

import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from persons import WORDS, holding

from tidemill.app import App
from tidemill.cli.main import run
from tidemill.loop.engine import Engine


@pytest.fixture
def home(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(asked, tmp_path / "now")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TIDEMILL_HOME", str(folder / "home"))
    monkeypatch.setenv("TIDEMILL_PROJECT", "notes_project.py")
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    code: object = 0
    try:
        run(["forget", *arguments])
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_dry_run_counts_and_deletes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "ann", "--dry-run")
    assert code == 0
    assert out.startswith("would delete:\n       10  predictions\n        8  words of feedback\n")
    assert holding(home, WORDS["ann"])
    code, out, _ = told(capsys, "ann", "--dry-run", "--json")
    assert json.loads(out)["counts"]["predictions"] == 10


def test_it_asks_and_goes_on_only_at_a_yes(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, err = told(capsys, "ann")
    assert code == 1
    assert "is about to delete" in err
    assert holding(home, WORDS["ann"])
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, _ = told(capsys, "ann")
    assert code == 0
    assert "deleted:\n       10  predictions\n" in out
    assert holding(home, WORDS["ann"]) == []
    assert holding(home, WORDS["bob"])


def test_an_unknown_person_is_nothing_to_ask_about(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "nobody")[:2] == (0, "nothing is kept about 'nobody': 0 rows\n")
    code, out, _ = told(capsys, "nobody", "--json")
    assert (code, set(json.loads(out)["counts"].values())) == (0, {0})


def test_an_empty_name_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, "", "--yes")
    assert code == 1
    assert err.startswith("error: the subject is empty.")


def test_where_a_loop_turns_the_loop_does_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are real: a loop in a thread of its own, and the command that waits for it."""
    looping = App.open("notes_project.py", home / "home")
    engine, stop, turned = looping.engine(poll_s=0.05), threading.Event(), threading.Event()
    engine.on_turn = lambda _: turned.set()
    thread = threading.Thread(target=_run, args=(engine, stop))
    thread.start()
    try:
        assert turned.wait(30)
        code, out, err = told(capsys, "cid", "--yes")
    finally:
        stop.set()
        thread.join()
        looping.close()
    assert (code, out.splitlines()[0]) == (0, "deleted:")
    assert err == "erasure 1: the loop is at it; it goes on if you leave\n"
    assert holding(home, WORDS["cid"]) == []


def _run(engine: Engine, stop: Any) -> None:
    engine.run(stop)
