"""`tidemill label` over a home with waiting examples: people, files and Label Studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Harness, truth
from test_labelling import begun, labels, right

from tidemill.cli import main


class Desk:
    """Types commands about one home."""

    def __init__(self, harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
        self.harness, self._capsys = harness, capsys
        self._where = ["--home", str(harness.folder / "home"), "--project", str(harness.folder / "waves_project.py")]

    def __call__(self, *arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main.run(["label", *arguments, *self._where])
        said = self._capsys.readouterr()
        assert not end.value.code, said.err
        return said.out, said.err

    def ids(self, *arguments: str) -> list[str]:
        return [json.loads(line)["id"] for line in self(*arguments)[0].splitlines()]


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("COLUMNS", "200")
    harness = begun(tmp_path, "tm.label.Queue(86_400, golden=0.5, rulebook='High is what sums up to more than 0.')")
    harness.seconds(25)
    return Desk(harness, capsys)


def test_people_take_different_tasks_read_the_rulebook_and_answer(desk: Desk):
    out, err = desk("--limit", "3", "--by", "ann")
    ann = [json.loads(line)["id"] for line in out.splitlines()]
    assert err == "High is what sums up to more than 0.\n"
    assert len(ann) == 3
    assert not set(ann) & set(desk.ids("--limit", "3", "--by", "bob"))
    assert desk.ids("--look", "--limit", "3") == ann
    assert desk("--by", "ann", *(f"{id_}={right(desk.harness, id_)}" for id_ in ann))[0] == "labelled 3\n"
    assert set(labels(desk.harness)) == set(ann)
    assert desk("ask", ann[0], "--priority", "5")[0] == "asked for 1\n"
    assert desk.ids("--look", "--limit", "1") == [ann[0]]
    assert desk("suspects")[0] == ""


def test_labellers_are_measured_on_golden_examples(desk: Desk):
    known = desk.ids("--look", "--limit", "4")
    assert desk("golden", *(f"{id_}={right(desk.harness, id_)}" for id_ in known))[0] == "4 golden\n"
    tasks = desk.ids("--limit", "8", "--by", "ann")
    assert set(known) <= set(tasks)
    desk("--by", "ann", *(f"{id_}={right(desk.harness, id_)}" for id_ in tasks))
    head, ann = desk("labellers")[0].splitlines()
    assert head.split()[:4] == ["labeller", "answers", "golden", "right"]
    assert ann.split()[:4] == ["ann", "8", "4", "100%"]


def test_label_studio_gets_tasks_and_gives_back_answers(desk: Desk):
    file, config = desk.harness.folder / "tasks.json", desk.harness.folder / "interface.xml"
    desk("export", str(file), "--format", "label-studio", "--config", str(config), "--limit", "3", "--by", "studio")
    tasks = json.loads(file.read_text())
    assert len(tasks) == 3
    assert "High is what sums up to more than 0." in config.read_text()
    assert '<Choice value="low"/>' in config.read_text()
    for task in tasks:
        choice = truth(task["data"]["x"], task["data"]["y"])
        result = [{"from_name": "label", "to_name": "x", "type": "choices", "value": {"choices": [choice]}}]
        task["annotations"] = [{"id": 1, "completed_by": {"id": 7, "email": "ann@example.org"}, "result": result}]
    file.write_text(json.dumps(tasks))
    assert desk("import", str(file), "--format", "label-studio")[0] == "labelled 3\n"
    ids = [task["data"]["tidemill_id"] for task in tasks]
    assert labels(desk.harness) == {id_: right(desk.harness, id_) for id_ in ids}


def test_json_lines_go_out_and_come_back(desk: Desk):
    file = desk.harness.folder / "tasks.jsonl"
    desk("export", str(file), "--format", "jsonl", "--limit", "2", "--by", "ann")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["label"] = right(desk.harness, rows[0]["id"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert desk("import", str(file), "--format", "jsonl", "--by", "ann")[0] == "labelled 1\n"
    assert set(labels(desk.harness)) == {rows[0]["id"]}


def test_tasks_from_before_the_inputs_were_edited_are_shown_as_they_are_declared_now(desk: Desk):
    file = desk.harness.folder / "waves_project.py"
    text = file.read_text()
    for old, new in (
        ('"y": tm.Number(), ', '"wind": tm.Number(default=-1), '),
        ('transforms=[tm.transforms.Standardise("x", "y")]', ""),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    for arguments in (("--look", "--limit", "2"), ("--limit", "2", "--by", "ann")):
        rows = [json.loads(line)["inputs"] for line in desk(*arguments)[0].splitlines()]
        assert [(set(row), row["wind"]) for row in rows] == [({"x", "wind", "app"}, -1.0)] * 2
    desk("export", str(file.with_name("tasks.json")), "--limit", "2", "--by", "ann")
    assert [task["data"]["wind"] for task in json.loads(file.with_name("tasks.json").read_text())] == [-1.0] * 2
