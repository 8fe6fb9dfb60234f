"""`tidemill dataset`: versions are listed, shown, compared, named and handed to other tools from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tidemill.app import App
from tidemill.cli import main

PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression

project = tm.Project(
    name="waves", inputs={"x": tm.Number(), "app": tm.Category(tag=True)}, output=tm.Classes(["low", "high"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
)
"""

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Run a command in a folder with a project and 40 imported rows; return its code, output and errors."""
    for name in ("HOME", "PROJECT", "DATABASE"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", [*sys.path])  # a project file puts its folder there, and itself among the modules
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)

    def run(*arguments: str) -> tuple[int, str, str]:
        code: Any = 0
        try:
            main.run(arguments)
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    x = np.arange(40) / 40
    rows = pl.DataFrame({"x": x, "app": ["v1"] * 40, "label": ["high" if v > 0.5 else "low" for v in x]})
    rows.write_parquet(tmp_path / "rows.parquet")
    run("import", "rows.parquet")
    yield run
    sys.modules.pop("project", None)


@pytest.fixture
def versions(shell: Shell) -> list[str]:
    """Form two versions; return their digests."""
    app, digests = App.open("project.py", ".tidemill"), []
    index = app.world.reservoir.index("waves")
    train = index.filter(index["split"] == "train")["id"].to_list()
    for ids in (train[2:], train[:-1]):
        with app.world.db.begin() as conn:
            version = app.world.datasets.form(
                conn, "waves", ids=ids, weights=(1.0,) * len(ids), formed_by="Everything()", schema=app.project.schema,
                parent=digests[-1] if digests else None, now=app.clock.now(),
            )  # fmt: skip
        digests.append(version.digest)
    app.close()
    return digests


def test_a_project_says_whether_near_duplicates_share_a_split(shell: Shell, tmp_path: Path) -> None:
    texts = PROJECT.replace("tm.Number()", "tm.Text()")
    without = texts.replace("trainer=", "near_duplicates=False, trainer=")
    for number, (text, near) in enumerate([(texts, {"x"}), (without, set())]):
        (tmp_path / f"near_{number}.py").write_text(text.replace('"waves"', f'"waves{number}"'))
        app = App.open(f"near_{number}.py", ".tidemill")
        assert set(app.world.sameness.near) == near
        assert tuple(app.world.sameness.names) == ("x",)
        app.close()


def test_versions_are_listed_with_their_names(shell: Shell, versions: list[str]) -> None:
    shell("dataset", "tag", "golden", "1")
    _, said, _ = shell("dataset", "list")
    _, first, second = said.splitlines()
    assert first.split()[:3] == ["1", versions[0][:12], "golden"] and "Everything()" in first
    assert versions[0][:12] in second.split()[2:], "its parent"
    found = json.loads(shell("dataset", "list", "--json")[1])
    assert [one["digest"] for one in found] == versions
    assert [one["tags"] for one in found] == [["golden"], []]
    assert [one["parent"] for one in found] == [None, versions[0]]


def test_a_version_shows_what_it_holds(shell: Shell, versions: list[str]) -> None:
    newest = json.loads(shell("dataset", "show", "--json")[1])
    assert newest["digest"] == versions[1]
    first = json.loads(shell("dataset", "show", "1", "--json")[1])
    assert sum(first["labels"]["train"].values()) == first["num_train"]
    assert first["trusts"]["test"] == {"truth": first["num_test"]}
    assert first["models"] == []
    assert "labels      train high" in shell("dataset", "show", versions[0][:6])[1]


def test_two_versions_are_compared(shell: Shell, versions: list[str]) -> None:
    found = json.loads(shell("dataset", "diff", "--json")[1])
    assert (found["old"], found["new"], len(found["added"]), len(found["removed"])) == (1, 2, 2, 1)
    _, said, _ = shell("dataset", "diff", "2", "1")
    assert said.splitlines()[0] == "version 2 to 1"
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [["added", "1"], ["removed", "2"]]
    assert "split changed        0" in said


def test_a_name_is_moved_and_taken_away_on_request_only(shell: Shell, versions: list[str]) -> None:
    assert shell("dataset", "tag", "golden")[1] == "version 2 is called 'golden'\n"
    code, _, error = shell("dataset", "tag", "golden", "1")
    assert code == 1 and "--move" in error
    assert shell("dataset", "tag", "golden", "1", "--move")[0] == 0
    assert json.loads(shell("dataset", "show", "golden", "--json")[1])["number"] == 1
    assert shell("dataset", "tag", "golden", "--delete")[0] == 0
    assert shell("dataset", "show", "golden")[0] == 1


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out"])
def test_an_export_is_what_was_imported(shell: Shell, versions: list[str], name: str) -> None:
    shown = json.loads(shell("dataset", "show", "2", "--json")[1])
    num_rows = shown["num_train"] + shown["num_test"]
    assert shell("dataset", "export", "2", name)[1] == f"wrote {num_rows} rows to {name}\n"
    assert f"added 0 of {num_rows} examples" in shell("import", name, "--time", "received_at", "--unit", "unit")[1]


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        ("show 7", "'waves' has no dataset '7'.", "numbers are 1 to 2, tags none yet"),
        ("diff 1 golden", "'waves' has no dataset 'golden'.", "numbers are 1 to 2"),
        ("tag 12", "'12' is no tag.", "such as 'v1'"),
        ("tag golden --delete", "'waves' has no tag 'golden'.", "tags are none yet"),
        ("export 1 project.py", "'project.py' exists.", "choose another name"),
        ("export 1 none/out.csv", "cannot be written", "choose another place"),
    ],
)
def test_what_goes_wrong_is_one_line_with_the_next_move(
    shell: Shell, versions: list[str], typed: str, error: str, hint: str
) -> None:
    code, _, said = shell("dataset", *typed.split())
    first, second = said.splitlines()
    assert code == 1
    assert first.startswith("error: ") and error in first
    assert second.startswith(" next: ") and hint in second


def test_without_a_version_commands_say_how_to_make_one(shell: Shell) -> None:
    assert shell("dataset", "list", "--json")[1] == "[]\n"
    for command in ("show", "diff"):
        assert "`tidemill train DATA`" in shell("dataset", command)[2]
