"""The documentation cannot lie: examples run, replies are those of a real gateway, and what is named exists."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import click
import httpx
import pytest
import typer
from typer.core import TyperGroup

import tidemill as tm
from tidemill.cli import main
from tidemill.errors import InvalidRequest
from tidemill.monitor.cohorts import check_cohorts
from tidemill.project import load_project
from tidemill.serving import http, patience
from tidemill.strategy.member import Member

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/decisions").glob("*.md"))]
TEMPLATE = ROOT / "src/tidemill/cli/template/project.py"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"^(?:tests|benchmarks|docs|examples|src)/[\w/.]+(?:::\w+)?$")
_GROUPED = ("Adapt", "Alert", "Curate", "Mix", "Dataset", "Union", "Guard", "SampleRatio", "Label", "Either", "Log",
            "Offline", "Online", "Then", "Trigger", "AllOf", "AnyOf", "AtMost")  # fmt: skip
"""Bases, what operators make, and the guard that is always on: nobody writes these by name."""


def page(name: str) -> Path:
    return ROOT / name


pages = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block, with the line its text begins at."""

    language: str
    text: str
    line: int


def blocks(path: Path, language: str | None = None) -> list[Block]:
    text = path.read_text()
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]
    return [block for block in found if language is None or block.language == language]


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


# --- Python


@pages
def test_every_python_example_runs(path: Path, tmp_path: Path, module: ModuleType) -> None:
    for number, block in enumerate(blocks(path, "python")):
        if "import torch" in block.text and find_spec("torch") is None:
            continue
        if is_project_file(block):
            vars(module).update(load(block, tmp_path / f"docs_{path.stem.lower()}_{number}.py"))
        else:
            exec(
                compile("\n" * (block.line - 1) + block.text, path, "exec"), vars(module)
            )  # errors name the page's line


def is_project_file(block: Block) -> bool:
    targets = [t for node in ast.parse(block.text).body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(t, ast.Name) and t.id == "project" for t in targets)


def load(block: Block, file: Path) -> dict[str, Any]:
    """Load a block as the project file it is, as the commands do; return what it defines."""
    file.write_text(block.text)
    project = load_project(str(file))
    check_cohorts(project)
    assert project.compile().project == project.name
    return {name: value for name, value in vars(sys.modules[file.stem]).items() if not name.startswith("__")}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that a page's examples make up, one after the other."""
    made = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", made)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return made


def test_the_project_in_the_readme_is_the_one_that_init_writes() -> None:
    assert [b.text for b in blocks(page("README.md"), "python")] == [TEMPLATE.read_text()]


def test_the_trainer_of_ones_own_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [b for b in blocks(page("docs/project.md"), "python") if "class NearestTrainer" in b.text]
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "nearest_page.py").write_text(block.text)
    with pytest.raises(SystemExit) as end:
        main.run(["check", "--project", str(tmp_path / "nearest_page.py")])
    said = capsys.readouterr().out
    assert not end.value.code, said
    assert "a small batch is fitted" in said


# --- HTTP


@dataclass
class Talk:
    """Asks a gateway what a page asks, and compares replies. The ids it got stand for those on the page."""

    client: httpx.Client
    ids: dict[str, str] = field(default_factory=dict)

    def check(self, command: str, shown: str) -> None:
        for on_page, real in self.ids.items():
            command = command.replace(on_page, real)
        reply, wanted = self._ask(command), json.loads(shown)
        said = reply.json()
        assert reply.status_code == wanted.get("status", reply.status_code)
        assert reply.is_success == ("status" not in wanted)
        assert alike(said, wanted), f"{command}\n{reply.text}"
        if "request_id" in wanted:
            self.ids[wanted["request_id"]] = said["request_id"]

    def _ask(self, command: str) -> httpx.Response:
        curl, address, *options = shlex.split(command)
        assert curl == "curl"
        path = address.removeprefix("localhost:8000")
        return (
            self.client.post(path, content=options[options.index("-d") + 1])
            if "-d" in options
            else self.client.get(path)
        )


def alike(said: Any, shown: Any, key: str = "") -> bool:
    """Tell whether a reply has the shape and the values that a page shows; ids, scores and timings are their own."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and list(said) == list(shown) and all(alike(said[k], shown[k], k) for k in shown)
    if isinstance(shown, list):
        return len(said) == len(shown) and all(map(alike, said, shown))
    if isinstance(shown, float):
        return isinstance(said, float)
    return key == "request_id" or bool(said == shown)


@pytest.fixture(scope="module")
def gateway(digits_home: Path) -> Iterator[httpx.Client]:
    """A gateway over the digits, in a process of its own."""
    code = (
        "import sys; from tidemill.serving.serve import run; from tidemill.stores.home import Home;"
        "run(Home(sys.argv[1]), port=0, ready=lambda address: print(address, flush=True))"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    home = str(digits_home / ".tidemill")
    process = subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    try:
        with httpx.Client(base_url=process.stdout.readline().strip(), timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.mark.parametrize("name", ["README.md", "docs/serving.md"])
def test_every_request_gets_the_reply_that_is_shown(name: str, gateway: httpx.Client) -> None:
    talk, asked = Talk(gateway), 0
    for block in blocks(page(name), "console"):
        for exchange in block.text.split("$ ")[1:]:
            command, shown = exchange[: (at := _end_of_command(exchange))], exchange[at:]
            talk.check(command, shown)
            asked += 1
    assert asked >= 2


def _end_of_command(exchange: str) -> int:
    """Return where the reply begins: after the first line on which all quotes are closed."""
    end = exchange.index("\n") + 1
    while exchange[:end].count("'") % 2:
        end = exchange.index("\n", end) + 1
    return end


def test_every_status_of_the_gateway_is_in_the_table() -> None:
    statuses = {200, 202, *(kind.status for kind in _subclasses(InvalidRequest))}
    assert {http.InternalError.status, patience.TooSlow.status} <= statuses
    rows = re.findall(r"^\| (\d{3}) \|", page("docs/serving.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == sorted(statuses)


def _subclasses(kind: type) -> set[Any]:
    return {sub for direct in kind.__subclasses__() for sub in (direct, *_subclasses(direct))}


# --- commands


def typed_commands(path: Path) -> list[list[str]]:
    """Every `tidemill ...` on a page, in the text and in blocks that are not Python."""
    lines = [line for b in blocks(path) if b.language != "python" for line in b.text.splitlines()]
    parts = [part.strip().removeprefix("$ ") for line in lines for part in line.partition("  #")[0].split("&&")]
    spans = _SPAN.findall(prose(path))
    words = [text.partition(" > ")[0] for text in (*parts, *spans) if text.startswith("tidemill ")]
    return [shlex.split(text)[1:] for text in words]


@pytest.mark.parametrize("path", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_named_exists_with_its_options(path: Path) -> None:
    for name, *arguments in typed_commands(path):
        if name.isupper() or name.startswith("--"):
            assert name in ("COMMAND", "--version")
            continue
        command = _command(name, arguments)
        known = {"--help", *(text for p in command.params for text in p.opts)}
        unknown = [a for a in arguments if a.startswith("--") and a not in known]
        assert not unknown, f"tidemill {name} has no {unknown}"


def _command(name: str, arguments: list[str]) -> click.Command:
    assert name in main.COMMANDS, f"there is no tidemill {name}"
    command = typer.main.get_command(import_module(f"tidemill.cli.{main.MODULES.get(name, name)}").app)
    if name == "label" and (not arguments or arguments[0] not in command.commands):
        return command.commands["answer"]  # which may be left out
    if isinstance(command, TyperGroup) and arguments and not arguments[0].startswith("-"):
        return command.commands[arguments[0]]
    return command


def test_every_setting_of_a_deployment_is_described() -> None:
    commands = (_command(name, []) for name in main.COMMANDS)
    settings = {(p.envvar, p.opts[0]) for command in commands for p in command.params if p.envvar}
    rows = [
        line.split("|")
        for line in page("docs/deployment.md").read_text().splitlines()
        if line.startswith("| `TIDEMILL_")
    ]
    described = {pair for row in rows for pair in zip(_SPAN.findall(row[1]), _SPAN.findall(row[2]), strict=True)}
    assert described == settings


def test_every_command_is_in_the_readme() -> None:
    table = [line for line in page("README.md").read_text().splitlines() if line.startswith("| `tidemill ")]
    assert {name for line in table for name in re.findall(r"`tidemill (\w+)`", line.split("|")[1])} == set(
        main.COMMANDS
    )


# --- what is named exists


@pytest.mark.parametrize("path", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(prose(path)):
        file, _, heading = link.partition("#")
        if file.startswith(("http://", "https://")):
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not heading or heading in _headings(target), link


def _headings(path: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_tests_that_are_named_exist(path: Path) -> None:
    for span in _SPAN.findall(prose(path)):
        if _TEST.match(span):
            file, _, test = span.partition("::")
            assert (ROOT / file).exists(), span
            assert not test or f"def {test}(" in (ROOT / file).read_text(), span


_FAMILIES = ["log", "curate", "label", "trigger", "dataset", "offline", "online", "guard", "adapt", "alert"]


@pytest.mark.parametrize("family", _FAMILIES)
def test_every_member_of_every_stage_is_described(family: str) -> None:
    text = page("docs/strategy.md").read_text()
    module = getattr(tm, family)
    members = [name for name, kind in vars(module).items() if _is_member(kind) and getattr(kind, "stage", "") == family]
    missing = [name for name in members if name[0] != "_" and name not in _GROUPED and f"{name}(" not in text]
    assert members and not missing


def _is_member(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Member)


def test_every_input_output_metric_transform_and_trainer_is_described() -> None:
    text = page("docs/project.md").read_text()
    kinds = ["Text", "Category", "Number", "Image", "Tensor", "Sensitive", "Classes", "Value", "Limits"]
    named = [f"tm.{kind}(" for kind in kinds]
    metrics = ("Accuracy", "F1", "LogLoss", "MeanAbsoluteError", "EventRate", "EventValue", "Thumbs", "Rating")
    named += [f"tm.metrics.{m}(" for m in metrics]
    named += [f"tm.trainers.{m}(" for m in ("Sklearn", "Torch")]
    named += [f"{m}(" for m in tm.transforms.TRANSFORMS]
    assert [name for name in named if name not in text] == []


def test_the_picture_is_small_stands_alone_and_tells_the_story() -> None:
    picture = page("docs/demo.svg")
    assert picture.stat().st_size < 150_000
    text = picture.read_text()
    drawn = " ".join("".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ").split())
    assert "http" not in text.replace("http://www.w3.org/", "").replace("https://www.textualize.io", "")
    for told in ("FIRE", "in shadow", "gets 25%", "FAIL", "stopped by the gate", "rolled back"):
        assert told in drawn
