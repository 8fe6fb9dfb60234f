"""`tidemill token`: what it prints can be piped into a secret store, and what it lists never shows a token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.cli import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TIDEMILL_HOME", raising=False)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main.run(["token", *arguments])
    assert not end.value.code
    told = capsys.readouterr()
    return told.out, told.err


def test_a_new_token_alone_is_on_the_standard_output(home: Path) -> None:
    command = [sys.executable, "-m", "tidemill.cli", "token", "add", "web", "--expires", "90d"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tm_") and len(done.stdout) == 47
    assert "web may feedback, predict on every project until" in done.stderr and "shown only once" in done.stderr


def test_the_list_shows_the_last_four_characters_and_the_state(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web = said(capsys, "add", "web", "--scope", "predict")[0].strip()
    vet = said(capsys, "add", "vet", "--scope", "feedback", "--trust", "truth", "--by", "ann")[0].strip()
    assert said(capsys, "revoke", "web")[0] == "token 1 is revoked\n"
    shown = said(capsys, "list")[0]
    assert web not in shown and vet not in shown
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert [row[:6] + row[-1:] for row in rows] == [
        ["1", "web", "all", "predict", "-", f"...{web[-4:]}", "revoked"],
        ["2", "vet", "all", "feedback", "truth", f"...{vet[-4:]}", "live"],
    ]
    listed = json.loads(said(capsys, "list", "--json")[0])
    assert [row["state"] for row in listed] == ["revoked", "live"]
    assert (listed[1]["created_by"], listed[1]["tail"]) == ("ann", vet[-4:])
