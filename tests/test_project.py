"""The project file: what is wrong in it is said with file, line and next move; what is right becomes a Manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

import tidemill as tm
from tidemill.app import App
from tidemill.errors import ProjectError
from tidemill.manifest import Limits, Manifest
from tidemill.project import Project, load_project
from tidemill.records import Trust
from tidemill.testing.fakes import MajorityTrainer

GOOD = """
import tidemill as tm
from tidemill.testing.fakes import MajorityTrainer

project = tm.Project(
    name="pets",
    inputs={"weight_kg": tm.Number(), "country": tm.Category(tag=True)},
    output=tm.Classes(["cat", "dog"]),
    trainer=MajorityTrainer(),
)
"""
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a project file and return its path; what it imports is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)

    def written(text: str, name: str = "pets_project.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    yield written
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def pets(**changes: Any) -> Project:
    usual: dict[str, Any] = {
        "name": "pets",
        "inputs": {"weight_kg": tm.Number(), "photo": tm.Image((4, 4)), "country": tm.Category(tag=True)},
        "output": tm.Classes(["cat", "dog"]),
        "trainer": MajorityTrainer(),
    }
    return Project(**{**usual, **changes})


# --- finding it


def test_the_only_project_of_a_file_is_found(write: Write) -> None:
    assert load_project(write(GOOD.replace("project =", "mine ="))).name == "pets"


def test_of_several_projects_the_one_called_project_is_taken_and_any_by_name(write: Write) -> None:
    file = write(GOOD + "import dataclasses\nother = dataclasses.replace(project, name='birds')\n")
    assert load_project(file).name == "pets"
    assert load_project(f"{file}:other").name == "birds"


def test_several_projects_none_called_project_must_be_chosen_from(write: Write) -> None:
    file = write(
        GOOD.replace("project =", "one =") + "import dataclasses\ntwo = dataclasses.replace(one, name='birds')\n"
    )
    with pytest.raises(ProjectError, match="2 Projects") as caught:
        load_project(file)
    assert "file.py:name" in caught.value.hint


def test_one_project_under_two_names_is_one_project(write: Write) -> None:
    assert load_project(write(GOOD.replace("project =", "one =") + "two = one\n")).name == "pets"


def test_a_name_that_is_not_there_is_refused_with_those_that_are(write: Write) -> None:
    with pytest.raises(ProjectError, match="no Project called 'nope'") as caught:
        load_project(f"{write(GOOD)}:nope")
    assert "project" in caught.value.hint


@pytest.mark.parametrize("text", ["", "project = 3"])
def test_a_file_without_a_project_is_refused(write: Write, text: str) -> None:
    with pytest.raises(ProjectError, match="0 Projects"):
        load_project(write(text))


def test_a_file_that_is_not_there_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="does not exist") as caught:
        load_project(str(tmp_path / "none.py"))
    assert "tidemill init" in caught.value.hint


def test_a_file_may_import_its_neighbours(write: Write) -> None:
    write("NAME = 'birds'\n", "pets_names.py")
    file = write(
        GOOD.replace('"pets"', "pets_names.NAME").replace("import tidemill", "import pets_names\nimport tidemill", 1)
    )
    assert load_project(file).name == "birds"


def test_a_file_is_read_anew_each_time(write: Write) -> None:
    assert load_project(write(GOOD)).name == "pets"
    assert load_project(write(GOOD.replace('"pets"', '"dogs"'))).name == "dogs"


# --- what is wrong in it


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('"weight_kg": tm.Number()', '"weight_kg": tm.Number(', 7, "SyntaxError"),
        ("import tidemill as tm", "import tidemil as tm", 2, "No module named 'tidemil'"),
        ("import tidemill as tm", "import sys, tidemill as tm; sys.exit(3)", 2, "SystemExit"),
        ("tm.Number()", "tm.Nmber()", 7, "Nmber"),
        ('tm.Classes(["cat", "dog"])', 'tm.Classes(["cat"])', 8, "two or more"),
        ("trainer=MajorityTrainer(),", "trainer=1 / 0,", 9, "ZeroDivisionError"),
        ('"weight_kg"', '"decision"', 5, "taken by the log"),
        (
            "trainer=MajorityTrainer(),",
            "trainer=MajorityTrainer(), strategy=tm.Strategy(label=tm.trigger.Manual()),",
            9,
            "label",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_file_and_line(
    write: Write, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(ProjectError, match=says) as caught:
        load_project(write(GOOD.replace(old, new, 1)))
    assert caught.value.message.startswith(f"pets_project.py, line {line}: ")
    assert caught.value.hint


def test_an_error_in_a_neighbour_is_said_with_the_line_that_imports_it(write: Write) -> None:
    write("\n\nx = 1 / 0\n", "pets_broken.py")
    with pytest.raises(ProjectError, match=r"pets_project.py, line 1: ZeroDivisionError"):
        load_project(write("import pets_broken\n" + GOOD))


def test_a_file_that_raised_is_no_module_afterwards(write: Write) -> None:
    with pytest.raises(ProjectError):
        load_project(write("1 / 0"))
    assert "pets_project" not in sys.modules


class Half:
    def train(self) -> None: ...


@pytest.mark.parametrize("trainer", [None, "sklearn", Half(), LogisticRegression(), MajorityTrainer, lambda data: None])
def test_what_is_no_trainer_is_refused(trainer: object) -> None:
    with pytest.raises(ProjectError, match="trainer is") as caught:
        pets(trainer=trainer)
    assert "tm.trainers.Sklearn" in caught.value.hint


@pytest.mark.parametrize("name", ["", "Pets", "1st", "two words", "../up", "a/b", "x" * 64, "pets\n", None, 3])
def test_a_project_name_that_is_no_plain_name_is_refused(name: object) -> None:
    with pytest.raises(ProjectError, match="not a plain name"):
        pets(name=name)


@pytest.mark.parametrize("name", ["all", "newest", "two words", "weight_kg", "", "decision", "unit"])
@pytest.mark.parametrize("kind", ["cohorts", "projections"])
def test_a_name_that_is_taken_or_is_none_is_refused(kind: str, name: str) -> None:
    values: dict[str, Any] = {"cohorts": "weight_kg > 1", "projections": len}
    with pytest.raises(ProjectError, match=f"{kind[:-1]} name {name!r}"):
        pets(**{kind: {name: values[kind]}})


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["accuracy"], "'accuracy' is no metric"),
        ([tm.metrics.Accuracy], "is no metric"),
        ([tm.metrics.Accuracy(), tm.metrics.Accuracy()], "two metrics are called 'accuracy'"),
        ([tm.metrics.F1("bird")], "'bird' is no class"),
        ([tm.metrics.MeanAbsoluteError()], "mean_absolute_error"),
    ],
)
def test_a_metric_that_cannot_be_computed_here_is_refused(metrics: list[Any], says: str) -> None:
    with pytest.raises(ProjectError, match=says) as caught:
        pets(metrics=metrics)
    assert caught.value.hint


def test_a_metric_of_classes_is_refused_for_numbers() -> None:
    with pytest.raises(ProjectError, match="log_loss"):
        pets(output=tm.Value(), metrics=[tm.metrics.LogLoss()])


def test_numbers_have_no_classes_to_balance() -> None:
    strategy = tm.Strategy(dataset=tm.dataset.Recent(500) + tm.dataset.Balanced())
    with pytest.raises(ProjectError, match="the output has no classes to balance"):
        pets(output=tm.Value(), strategy=strategy)
    assert pets(strategy=strategy).strategy.dataset == strategy.dataset


def test_without_metrics_classes_are_judged_by_accuracy_and_numbers_by_their_error() -> None:
    assert [m.name for m in pets().metrics] == ["accuracy"]
    assert [m.name for m in pets(output=tm.Value()).metrics] == ["mean_absolute_error"]


@pytest.mark.parametrize(
    "strategy",
    [
        tm.Strategy(trigger=tm.trigger.Degraded("precision", drop=0.1)),
        tm.Strategy(offline=[tm.offline.NoWorse("precision")]),
        tm.Strategy(online=tm.online.Gradual(guards=[tm.guard.NoWorse("precision")])),
    ],
    ids=["trigger", "offline", "online"],
)
def test_a_stage_that_names_an_unknown_metric_is_refused_with_those_declared(strategy: tm.Strategy) -> None:
    with pytest.raises(ProjectError, match="'precision' is no metric") as caught:
        pets(strategy=strategy)
    assert "accuracy" in caught.value.hint


def test_a_trigger_or_a_guard_cannot_watch_f1_but_the_gate_may_read_it() -> None:
    metrics = [tm.metrics.Accuracy(), tm.metrics.F1("cat")]
    for strategy in (
        tm.Strategy(trigger=tm.trigger.Degraded("f1", drop=0.1)),
        tm.Strategy(online=tm.online.Gradual(guards=[tm.guard.NoWorse("f1_cat")])),
    ):
        with pytest.raises(ProjectError, match="no value for a single request") as caught:
            pets(metrics=metrics, strategy=strategy)
        assert "accuracy" in caught.value.hint
    pets(metrics=metrics, strategy=tm.Strategy(offline=[tm.offline.AtLeast("f1", 0.5)]))


def test_an_input_may_not_have_the_name_of_an_event() -> None:
    with pytest.raises(ProjectError, match="'event_buy'"):
        pets(inputs={"event_buy": tm.Number()}, metrics=[tm.metrics.Accuracy(), tm.metrics.EventRate("buy")])
    pets(inputs={"event_buy": tm.Number()})


def test_stages_that_name_no_metric_read_the_first() -> None:
    project = pets(metrics=[tm.metrics.LogLoss(), tm.metrics.Accuracy()])
    assert project.strategy.trigger.needs().metrics == ("log_loss",)
    assert {name for member in project.strategy.offline for name in member.needs().metrics} == {"log_loss"}


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("wight_kg > 1", "'wight_kg', which is not there"),
        ("weight_kg >", "is no expression"),
        ("weight_kg + 1 = country || 'x' AND upper(weight_kg)", "fails"),
        ("upper(country)", "gives VARCHAR"),
        ("weight_kg > 'heavy'", "fails"),
        ("(SELECT 1) = 1", "not allowed"),
        ("read_text('/etc/passwd') = ''", "not allowed"),
    ],
)
def test_a_cohort_that_cannot_be_computed_is_refused_when_the_project_is_opened(
    write: Write, tmp_path: Path, condition: str, says: str
) -> None:
    file = write(GOOD.replace("    trainer=", f'    cohorts={{"some": "{condition}"}},\n    trainer='))
    with pytest.raises(ProjectError, match=says) as caught:
        App.open(file, tmp_path / "home")
    assert "'some'" in caught.value.message and condition in caught.value.message
    assert not (tmp_path / "home").exists()


# --- the manifest

PROJECTS = [
    pets(),
    pets(
        unit="user",
        metrics=[
            tm.metrics.Accuracy(),
            tm.metrics.EventRate("appeal", higher_is_better=False),
            tm.metrics.EventRate("buy"),
        ],
        policy=tm.Policy(abstain_below=0.6),
        limits=Limits(max_batch=8, timeout_s=1.5, copies=2, threads=1, worker_growth_bytes=None),
        default="dog",
        cache_bytes=1 << 20,
        strategy=tm.Strategy(
            log=tm.log.Sample(0.1, by="country", rates={"NL": 1.0}),
            label=tm.label.Queue(daily_budget=5) | tm.label.Feedback(trust="functions", horizon="1h"),
        ),
    ),
    pets(
        output=tm.Value(low=0),
        inputs={"mail": tm.Sensitive(), "v": tm.Tensor((3,))},
        strategy=tm.Strategy(label=tm.label.Queue()),
    ),
]


@pytest.mark.parametrize("project", PROJECTS)
def test_a_compiled_project_comes_back_from_json_as_it_was(project: Project) -> None:
    manifest = project.compile()
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert project.compile() == manifest


def test_the_manifest_tells_the_gateway_what_it_needs() -> None:
    manifest = PROJECTS[1].compile()
    assert (manifest.project, manifest.unit, manifest.policy) == ("pets", "user", tm.Policy(abstain_below=0.6))
    assert manifest.feedback is Trust.FUNCTIONS and manifest.events == ("appeal", "buy")
    assert manifest.limits.max_batch == 8 and manifest.strategy == PROJECTS[1].strategy.digest()


def test_a_manifest_of_an_older_program_is_read() -> None:
    written = PROJECTS[0].compile().to_json()
    for name in ("policy", "default", "cache_bytes"):
        del written[name]
    for name in ("copies", "threads", "worker_growth_bytes", "max_wait_s"):
        del written["limits"][name]
    assert Manifest.from_json({**written, "abstain_below": None}) == PROJECTS[0].compile()
    level = Manifest.from_json({**written, "abstain_below": 0.6})
    assert level.policy == tm.Policy(abstain_below=0.6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"default": "bird"}, "default is no decision: label 'bird' is no class"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
        ({"policy": 0.6}, "policy is 0.6"),
        ({"policy": tm.Policy(thresholds={"bird": 0.5})}, "threshold for 'bird'"),
        ({"inputs": {"age": tm.Number(outliers="drop")}}, "input 'age' has outliers='drop'"),
    ],
)
def test_what_a_gateway_could_not_do_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ProjectError, match=says):
        pets(**changes)


@pytest.mark.parametrize("name", ["copies", "threads", "worker_growth_bytes", "max_batch"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ProjectError, match=rf"Limits\({name}=0\)"):
        Limits(**{name: 0})


def test_projects_that_serve_otherwise_have_other_manifests() -> None:
    manifests = [
        p.compile()
        for p in (
            *PROJECTS,
            pets(name="birds"),
            pets(unit="user"),
            pets(policy=tm.Policy(abstain_below=0.5)),
            pets(limits=Limits(max_batch=1)),
            pets(limits=Limits(copies=2)),
            pets(default="cat"),
            pets(cache_bytes=1),
            pets(inputs={"weight_kg": tm.Number(outliers="refuse")}),
            pets(output=tm.Classes(["dog", "cat"])),
            pets(inputs={"weight_kg": tm.Number(low=0)}),
            pets(strategy=tm.Strategy(curate_every="2h")),
        )
    ]
    assert all(one != other for i, one in enumerate(manifests) for other in manifests[:i])


def test_how_long_the_log_is_kept_is_a_duration_that_lets_feedback_come() -> None:
    strategy = tm.Strategy(label=tm.label.Feedback(horizon="5d"), curate_every="1d")
    assert pets().log_age is None
    assert pets(keep_log="2w", strategy=strategy).log_age == timedelta(days=14)
    assert pets(keep_log=timedelta(days=7), strategy=strategy).log_age == timedelta(days=7)
    with pytest.raises(ProjectError, match="before their feedback has come") as refusal:
        pets(keep_log="6d", strategy=strategy)
    assert refusal.value.hint == "keep at least 7 days"
    with pytest.raises(ProjectError, match="keep_log is 'long'"):
        pets(keep_log="long")
