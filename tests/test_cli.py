"""The command line: every command can be found and helps, and what goes wrong is one line with the next move."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import polars as pl
import pytest
import typer
from typer.core import TyperGroup

from tidemill.cli import main
from tidemill.loop.controls import Controls
from tidemill.records import Json

PROBLEM = """
import tidemill as tm

project = tm.Project(
    name="digits", inputs={"x": tm.Number()}, output=tm.Classes(["a", "b"]), trainer=tm.trainers.Sklearn("none")
)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, in the folder it stands in."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        code: object = 0
        try:
            main.run(arguments)
        except SystemExit as end:
            code = end.code or 0
        said = self._capsys.readouterr()
        assert isinstance(code, int)
        return Result(code, said.out, said.err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    for name in ("HOME", "PROJECT", "HOST", "PORT", "DURABILITY"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    path, modules = list(sys.path), dict(sys.modules)
    yield Shell(capsys)
    sys.path[:] = path  # a project file puts its folder there, and itself among the modules
    for name in set(sys.modules) - set(modules):
        if name in ("project", "wrong", "broken"):
            del sys.modules[name]


@pytest.fixture
def here(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with version 1, which a test leaves as it is."""
    monkeypatch.chdir(digits_home)
    return digits_home


@pytest.fixture
def mine(digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to change."""
    copy = shutil.copytree(digits_home, tmp_path / "mine")
    monkeypatch.chdir(copy)
    return copy


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command and subcommand, as `strategy diff`, with what typer made of it."""
    for name in main.COMMANDS:
        command = typer.main.get_command(module(name).app)
        yield name, command
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())


def module(name: str) -> object:
    return import_module(f"tidemill.cli.{main.MODULES.get(name, name)}")


# --- help


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_command_in_order_with_what_it_does(shell: Shell, arguments: tuple[str, ...]) -> None:
    result = shell(*arguments)
    listed = [line.split(maxsplit=1) for line in result.out.splitlines() if line.startswith("  ")]
    assert result.code == 0
    assert listed == [[name, text] for name, text in main.COMMANDS.items()]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_helps(shell: Shell, name: str) -> None:
    result = shell(name, "--help")
    assert result.code == 0
    assert f"Usage: tidemill {name}" in result.out


@pytest.mark.parametrize(("name", "command"), [pytest.param(*c, id=c[0]) for c in commands()])
def test_every_option_and_argument_says_what_it_is_for(name: str, command: click.Command) -> None:
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert not silent, f"tidemill {name}: {silent}"


def test_the_version_is_told(shell: Shell) -> None:
    assert shell("--version").out == "tidemill 0.1.0\n"


def test_python_m_tidemill_cli_is_the_command_and_its_help_loads_nothing_heavy() -> None:
    code = "import sys, runpy; sys.argv = ['tidemill', '--help']; runpy.run_module('tidemill.cli', run_name='__main__')"
    check = "; print('HEAVY', sorted({'numpy', 'polars', 'sklearn', 'sqlalchemy', 'duckdb'} & set(sys.modules)))"
    said = subprocess.check_output([sys.executable, "-c", code + check], text=True)
    assert said.startswith("Usage: tidemill COMMAND")
    assert said.endswith("HEAVY []\n")


def test_what_is_typed_often_loads_no_library_that_takes_half_a_second() -> None:
    code = "import sys; from tidemill.cli import promote, report, rollback, status"
    check = "; print(sorted({'scipy.stats', 'sklearn', 'torch', 'pandera', 'gradio'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code + check], text=True) == "[]\n"


# --- what goes wrong


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("statsu", "did you mean `tidemill status`?"),
        ("role-back", "did you mean `tidemill rollback`?"),
        ("frobnicate", "see `tidemill --help`"),
    ],
)
def test_an_unknown_command_suggests_the_nearest(shell: Shell, typed: str, hint: str) -> None:
    result = shell(typed)
    assert result.code == 2
    assert result.err == f"error: there is no command {typed!r}.\n next: {hint}\n"


WRONG = [
    (
        "check --project nowhere.py",
        "project file 'nowhere.py' does not exist.",
        "run `tidemill init`, or name the file",
    ),
    ("check --project wrong.py", "wrong.py, line 5: Sklearn('none') is not given an estimator.", "pass an instance"),
    ("check --project broken.py", "broken.py, line 2: SyntaxError", "mend the line and check again"),
    ("check --project project.py:other", "project.py has no Project called 'other'.", "it has project"),
    ("check nowhere.parquet", "data file 'nowhere.parquet' does not exist.", "name a file that ends in .parquet"),
    ("train nowhere.parquet", "data file 'nowhere.parquet' does not exist.", "name a file that ends in .parquet"),
    ("train project.py", "data file 'project.py' is no Parquet, CSV or JSON lines file.", "name a file that ends in"),
    ("train few.parquet --label truth", "the data has no column 'truth'; it has image, app, label.", "--label"),
    ("train few.parquet", "'digits' serves version 1 already.", "`tidemill import`, then `tidemill retrain`"),
    ("init", "project.py exists already.", "choose an empty folder"),
    ("status --period soon", "--period is 'soon', which is not a duration.", "'30d', '2h'"),
    ("loop --poll soon", "--poll is 'soon', which is not a duration.", "'30d', '2h'"),
    ("loop --lapse -1s", "--lapse is '-1s', which is not a duration.", "'30d', '2h'"),
    ("report 7", "there is no report on version 7.", "versions are [1]"),
    ("promote 7", "has no version 7.", ""),
    ("promote 7 --now", "has no version 7.", ""),
    ("rollback", "version 1 has no version before it.", "`tidemill promote`"),
    ("policy set --threshold toxic", "--threshold 'toxic' is not CLASS=SCORE.", "such as toxic=0.8"),
    ("policy set --threshold toxic=0.8", "threshold for 'toxic', which is no class.", "there is 0, 1"),
    ("policy set --top 0", "the policy's top is 0.", "how many"),
    ("policy use 7", "has no policy 7.", "see `tidemill policy list`"),
    ("approve", "no candidate is under way.", "see `tidemill status`"),
    ("reject --reason no", "no cycle is open.", "see `tidemill status`"),
    ("label x", "'x' is no answer.", "write ID=LABEL"),
    ("label x=1", "has no example x.", ""),
    ("label x=twelve", "label 'twelve' is no class.", "send one of 0, 1"),
    ("label --file nowhere.jsonl", "nowhere.jsonl is no file of answers", "one JSON object with id and label per line"),
    ("runs first-nothing", "there is no run 'first-nothing'.", "runs are first-"),
    ("strategy diff 1 7", "there is no strategy version 7.", "versions are 1"),
    ("serve --host 0.0.0.0 --port 0", "there is no token, and others", "`tidemill token add NAME`, or listen on 127"),
    ("up --host 0.0.0.0", "there is no token, and others", "`tidemill token add NAME`, or listen on 127"),
    ("token add queue", "'queue' is no name for a token.", "use a letter"),
    ("token add web --for cats", "there is no project 'cats'.", "there is digits"),
    ("token add web --expires soon", "--expires is 'soon', which is not a duration.", "such as '30d'"),
    ("token add web --scope predict --trust truth", "may give no feedback", "add the scope feedback"),
    ("token revoke web", "there is no token 'web' to revoke.", "`tidemill token list`"),
    ("status --home few.parquet/home", "cannot be created", "--home or TIDEMILL_HOME"),
]


@pytest.mark.parametrize(("typed", "error", "hint"), WRONG, ids=[typed for typed, _, _ in WRONG])
def test_what_goes_wrong_is_one_line_with_the_next_move(
    shell: Shell, here: Path, typed: str, error: str, hint: str
) -> None:
    (here / "wrong.py").write_text(PROBLEM)
    (here / "broken.py").write_text("import tidemill as tm\nproject = tm.Project(\n")
    result = shell(*typed.split())
    first, second = result.err.splitlines()
    assert result.code == 1
    assert first.startswith("error: ") and error in first
    assert second.startswith(" next: ") and hint in second
    assert "Traceback" not in result.out + result.err


def test_without_a_version_commands_say_how_to_make_one(shell: Shell, here: Path, tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    assert "make one with `tidemill train DATA`" in shell("status", *home).out
    assert shell("report", *home).err == "error: there is no report.\n next: versions are none yet\n"
    assert "make one with `tidemill train DATA`" in shell("rollback", *home).err
    assert shell("runs", *home).code == 0


@pytest.mark.parametrize("typed", ["reject", "promote", "promote two", "up --port x", "demo --stream few.parquet"])
def test_a_command_typed_wrongly_shows_its_usage(shell: Shell, here: Path, typed: str) -> None:
    result = shell(*typed.split())
    assert result.code == 2
    assert f"Usage: tidemill {typed.partition(' ')[0]}" in result.err


# --- what goes right


def test_init_writes_what_check_accepts(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cd new && tidemill check" in shell("init", "new").out
    assert len(pl.read_parquet(tmp_path / "new" / "digits.parquet")) == 1_797
    monkeypatch.chdir(tmp_path / "new")
    result = shell("check")
    assert result.code == 0
    assert "compiled 'digits'" in result.out
    assert "FAIL" not in result.out


def test_check_exits_1_when_a_smoke_test_fails_and_names_the_likely_cause(shell: Shell, mine: Path) -> None:
    same = pl.read_parquet("few.parquet").with_columns(label=pl.lit("3"))
    same.write_parquet("same.parquet")
    result = shell("check", "same.parquet")
    assert result.code == 1
    assert "every label is '3'; likely one source labels everything (back to labels)" in result.out


def test_status_shows_the_route_and_its_json_the_same(shell: Shell, here: Path) -> None:
    assert "digits  version 1 answers" in shell("status").out
    status = json.loads(shell("status", "--json").out)
    assert status["route"]["stable"] == 1
    assert status["examples"] == {"all": 300, "labelled": 300, "waiting": 0}
    assert {(q["metric"], q["cohort"]) for q in status["quality"]} == {
        ("accuracy", cohort) for cohort in ("all", "old_app", "new_app")
    }


def test_a_policy_is_set_listed_and_taken_back_and_the_model_stays(shell: Shell, mine: Path) -> None:
    assert "policy 1 says so already: the highest score decides" in shell("policy", "set", "--abstain-below", "0").out
    set_ = shell("policy", "set", "--abstain-below", ".6", "--threshold", "3=.8", "--by", "ann", "--reason", "too bold")
    assert set_.out == "policy 2 is in force: 3 from 0.8, abstains below 0.6; `tidemill policy use 1` goes back\n"
    assert "policy 3 is in force: 3 from 0.8, tells the best 3" in shell(
        "policy", "set", "--abstain-below", "0", "--top", "3"
    ).out  # fmt: skip
    assert "policy 2 is in force" in shell("policy", "use", "2", "--reason", "better").out
    listed = json.loads(shell("policy", "list", "--json").out)
    assert [(p["policy"], p["in_force"]) for p in listed] == [(1, False), (2, True), (3, False)]
    assert (listed[1]["thresholds"], listed[1]["by"], listed[1]["reason"]) == ({"3": 0.8}, "ann", "too bold")
    assert "too bold" in shell("policy", "list").out
    route = json.loads(shell("status", "--json").out)["route"]
    assert (route["stable"], route["policy_version"], route["revision"]) == (1, 2, 4)


def test_the_report_is_told_in_three_ways(shell: Shell, here: Path) -> None:
    stored = json.loads(shell("report", "--json").out)
    assert (stored["candidate"], stored["live"]) == (1, None)
    assert shell("report", "--format", "markdown").out.startswith("# Version 1 is the first one")
    assert "accuracy" in shell("report", "1").out


def test_train_on_a_project_that_is_served_publishes_nothing(shell: Shell, mine: Path) -> None:
    text = (mine / "project.py").read_text()
    assert "drop=0.05" in text
    (mine / "project.py").write_text(text.replace("drop=0.05", "drop=0.04"))
    before = manifest()
    assert "serves version 1 already" in shell("train", "few.parquet").err
    assert manifest() == before


def test_commands_say_what_of_the_file_waits_and_what_puts_it_in_force(shell: Shell, mine: Path) -> None:
    text = (mine / "project.py").read_text()
    assert '"app": tm.Category(tag=True)' in text
    (mine / "project.py").write_text(text.replace('"app": tm.Category(tag=True)', '"app": tm.Text(tag=True)'))
    before, waits = manifest(), "schema waits: input 'app' has another form; version 1 goes on answering"
    for command in (("status",), ("check",), ("import", "few.parquet")):
        result = shell(*command)
        assert waits in " ".join((result.out + result.err).split())
    assert waits in json.loads(shell("status", "--json").out)["waits"]
    made = shell("train", "few.parquet")
    assert "version 2 is made; version 1 goes on answering" in made.out, made.err
    assert "`tidemill promote 2 --now`" in shell("status").out
    assert manifest() == before
    assert "version 2 answers all traffic" in shell("promote", "2", "--now").out
    assert manifest()["schema"]["inputs"]["app"]["type"] == "Text"
    assert "waits" not in shell("status").out


def manifest() -> Json:
    return Controls.of_home(Path(".tidemill"), "project.py").catalog.manifest("digits")


def test_runs_are_listed_and_one_is_like_itself(shell: Shell, here: Path) -> None:
    (run, body), *others = json.loads(shell("runs", "--json").out).items()
    assert not others
    assert body["status"] == "done" and body["metrics"]["accuracy"] > 0.9
    assert "done" in shell("runs").out
    assert "accuracy" not in shell("runs", run, run).out


def test_pause_shows_in_status_until_resume(shell: Shell, mine: Path) -> None:
    shell("pause")
    assert "paused since" in shell("status").out
    shell("resume")
    assert "paused" not in shell("status").out


def test_what_people_ask_waits_for_the_loop(shell: Shell, mine: Path) -> None:
    assert "asked (command 1)" in shell("retrain", "--reason", "new digits", "--by", "ann").out
    assert "asked; the loop takes version 1" in shell("promote", "1").out


def test_import_adds_a_row_once(shell: Shell, mine: Path) -> None:
    pl.read_parquet("digits.parquet")[290:310].write_parquet("more.parquet")
    assert shell("import", "more.parquet").out == "added 10 of 20 examples; the others were there\n"
    assert shell("import", "more.parquet").out == "added 0 of 20 examples; the others were there\n"


def test_the_queue_is_empty_without_traffic_and_answers_in_lines_that_are_not_filled_in_count_for_nothing(
    shell: Shell, mine: Path
) -> None:
    assert shell("label").out == ""
    (mine / "waiting.jsonl").write_text('{"id": "a", "label": null}\n\n')
    assert shell("label", "--file", "waiting.jsonl").code == 0


def test_a_changed_strategy_is_a_new_version_that_can_be_compared(shell: Shell, mine: Path) -> None:
    file = mine / "project.py"
    file.write_text(file.read_text().replace("drop=0.05", "drop=0.04"))
    versions = json.loads(shell("strategy", "log", "--json").out)["strategies"]
    assert len(versions) == 1, "looking changes nothing that runs"
    shell("import", "few.parquet")
    assert len(json.loads(shell("strategy", "log", "--json").out)["strategies"]) == 2
    assert "drop: 0.05 -> 0.04" in shell("strategy", "diff").out
    assert shell("strategy", "diff", "1", "1").out == "no difference\n"


def test_settings_come_from_the_environment_too(
    shell: Shell, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(here / ".tidemill"))
    monkeypatch.setenv("TIDEMILL_PROJECT", str(here / "project.py"))
    monkeypatch.chdir(tmp_path)
    assert "version 1 answers" in shell("status").out


def test_a_project_file_that_is_broken_or_gone_keeps_nobody_from_its_controls(shell: Shell, mine: Path) -> None:
    (mine / "project.py").write_text("raise RuntimeError('half an edit')\n")
    assert shell("pause").code == 0
    assert shell("resume").code == 0
    refused = shell("rollback", "--reason", "a customer called")
    assert "version 1 has no version before it" in refused.err
    (mine / "project.py").unlink()
    assert shell("retrain").code == 0
    assert shell("policy", "set", "--abstain-below", "0.5").code == 0


def test_while_the_project_file_is_broken_status_and_report_show_what_the_stores_know(shell: Shell, mine: Path) -> None:
    (mine / "project.py").write_text("raise RuntimeError('half an edit')\n")
    shown = shell("status")
    assert shown.code == 0
    assert "version 1 answers" in shown.out
    assert "half an edit" in shown.out
    assert "half an edit" in json.loads(shell("status", "--json").out)["problem"]
    assert "accuracy" in shell("report", "1").out


def test_without_a_home_controls_say_that_there_is_none(shell: Shell, tmp_path: Path) -> None:
    refused = shell("pause", "--home", str(tmp_path / "nothing"))
    assert refused.code == 1
    assert "there is no home folder" in refused.err
    assert not (tmp_path / "nothing").exists()
