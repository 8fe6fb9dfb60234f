"""What a training does, in one process: it either leaves an artefact that answers as the model did, or says why not."""

from __future__ import annotations

import hashlib

import numpy as np
import own_models
import pytest
from own_models import Constant, Forgets, Liar, NoLoad
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from tidemill.errors import ModelError, ProjectError, TrainingError
from tidemill.project import Project
from tidemill.schema import Number
from tidemill.stats.metrics import F1, Accuracy, EventRate, LogLoss
from tidemill.training import lineage, work
from tidemill.training.export import canonical, export
from tidemill.training.runner import error_json
from tidemill.training.smoke import SmokeTestError
from tidemill.training.trainers import Sklearn


class Own:
    """A trainer whose model, or failure, is given."""

    def __init__(self, outcome):
        self.outcome = outcome

    def to_json(self):
        return {"trainer": "Own"}

    def train(self, data, *, start_from, seed, workdir, progress):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def project(trainer, data, **parts) -> Project:
    return Project(name="p", inputs=data.schema.inputs, output=data.schema.output, trainer=trainer, **parts)


def made(trainer, data, tmp_path, *, metrics=(), smoke_tests=False, seed=0):
    return work.make(
        project(trainer, data, metrics=metrics), data, start_from=None, seed=seed, workdir=tmp_path,
        report=lambda p: None, project_file=None, smoke_tests=smoke_tests,
    )  # fmt: skip


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_data_and_seed_give_the_same_bytes(digits, tmp_path):
    """So the same training is stored once, and a run can be checked by making it again."""
    trainer = Sklearn(MLPClassifier((8,), max_iter=5))
    first, again, other = (
        hashes(made(trainer, digits, tmp_path / name, seed=seed).folder)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


def test_metrics_on_the_training_rows_are_kept_and_events_are_unknown(digits, tmp_path):
    metrics = (Accuracy(), F1("3"), LogLoss(), EventRate("appeal", higher_is_better=False))
    got = made(Sklearn(LogisticRegression()), digits, tmp_path, metrics=metrics, smoke_tests=True)
    assert got.metrics["accuracy"] > 0.95
    assert got.metrics["f1_3"] > 0.9
    assert 0 < got.metrics["log_loss"] < 1
    assert got.metrics["event_rate_appeal"] is None
    assert len(got.smoke) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artefact"]


def test_values_have_metrics_too(prices, tmp_path):
    assert made(Sklearn(Ridge()), prices, tmp_path).metrics["mean_absolute_error"] < 0.2


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (KeyError("gone"), r"Own\.train raised KeyError: 'gone'"),
        (MemoryError(), "ran out of memory"),
        (None, "returned None, which is no model"),
        (Constant(np.full(10, np.nan)), "NaN"),
        (Constant(np.zeros(3)), r"shape \(400, 3\), not \(400, 10\)"),
        (ProjectError("said by the trainer"), "said by the trainer"),
    ],
)
def test_a_trainer_that_does_not_deliver_is_told_of(outcome, told, digits, tmp_path):
    with pytest.raises((TrainingError, ProjectError), match=told):
        made(Own(outcome), digits, tmp_path)


def test_a_failed_smoke_test_stops_before_the_training_and_says_where_to_mend(digits, tmp_path):
    with pytest.raises(SmokeTestError, match=r"smoke\.memorise") as caught:
        made(Own(Constant(np.zeros(10))), digits, tmp_path, smoke_tests=True)
    body = error_json(caught.value)
    assert (body["type"], body["back_to"]) == ("SmokeTestError", "training")
    assert body["hint"] == "mend the training and train again"
    unlabelled = digits.take(np.array([], dtype=int))
    with pytest.raises(SmokeTestError, match="nothing is labelled") as caught:
        made(Own(Constant(np.zeros(10))), unlabelled, tmp_path, smoke_tests=True)
    assert error_json(caught.value)["back_to"] == "labels"


def test_a_model_that_no_worker_could_load_is_refused(digits, tmp_path):
    with pytest.raises(ModelError, match=r"cannot be loaded again by a worker.*load\(folder\)"):
        export(NoLoad(np.zeros(10)), digits, tmp_path / "a")
    with pytest.raises(ModelError, match=r"'artefact\.json', a name of the artefact's own"):
        export(Constant(np.zeros(10), files=("artefact.json",)), digits, tmp_path / "b")


def test_a_reload_that_answers_otherwise_is_refused(digits, tmp_path):
    """The model's `load` forgets what it saved; it must not get into traffic."""
    with pytest.raises(ModelError, match="does not reproduce its example"):
        export(Forgets(np.full(10, 0.5)), digits, tmp_path / "a", project_file=own_models.__file__)


def test_an_onnx_form_that_differs_is_not_used(digits, tmp_path):
    """A wrong graph gives way to the model itself, and the notes say by how much it was off."""
    other = Sklearn(LogisticRegression()).train(
        digits, start_from=None, seed=0, workdir=tmp_path, progress=lambda p: None
    )
    model = Liar(np.full(10, 0.1))
    model.graph = other.to_onnx(digits.columns)
    exported = export(model, digits, tmp_path / "a", project_file=own_models.__file__)
    assert exported.format == "python"
    assert "differs on 400 of 400 training rows" in exported.notes
    model.graph = b"no graph at all"
    assert "does not run" in export(model, digits, tmp_path / "b", project_file=own_models.__file__).notes


def test_example_rows_survive_the_way_to_columns_and_back(digits, titles, prices):
    for data in (digits, titles, prices):
        rows = canonical(data.take(np.arange(5)).columns)
        for name, column in data.schema.columns(rows).items():
            np.testing.assert_array_equal(column, data.columns[name][:5])
            assert isinstance(rows[0][name], float if isinstance(data.schema.inputs[name], Number) else str | bytes)


def test_the_code_is_known_by_the_sources_beside_the_project_file(tmp_path):
    """A change in the file, in its neighbours or in a package below changes the hash; other folders do not count."""
    (tmp_path / "project.py").write_text("a = 1")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    seen = [lineage.code(f"{tmp_path}/project.py:name")["sources"]]
    for path, text in (("project.py", "a = 2"), ("beside.py", ""), ("package/deep.py", "b = 1")):
        (tmp_path / path).write_text(text)
        seen.append(lineage.code(f"{tmp_path}/project.py")["sources"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.py").write_text("x")
    assert len(set(seen)) == 4
    assert lineage.code(f"{tmp_path}/project.py")["sources"] == seen[-1]
    assert lineage.code(f"{tmp_path}/project.py")["commit"] is None


def test_the_git_commit_is_known_and_whether_the_code_has_changed_since(tmp_path):
    import subprocess

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "project.py").write_text("a = 1")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "first")
    code = lineage.code(f"{tmp_path}/project.py")
    assert len(code["commit"]) == 40
    assert code["changed"] is False
    (tmp_path / "project.py").write_text("a = 2")
    assert lineage.code(f"{tmp_path}/project.py")["changed"] is True
