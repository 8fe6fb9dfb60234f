"""The public names are a list that changes only on purpose, and `import tidemill` costs next to nothing."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from types import ModuleType

import pytest

import tidemill as tm
from tidemill.strategy.member import Member

NAMES = [
    "App", "BacktestResult", "Category", "Classes", "Image", "Limits", "Model", "Number", "Outcome", "Policy",
    "Progress", "Project", "Sensitive", "Strategy", "Tensor", "Text", "TidemillError", "Trainer", "TrainingData",
    "Value", "Verdict",
    "backtest", "batch",
]  # fmt: skip

MEMBERS = {
    "adapt": ["Abstain", "Adapt", "Never", "Threshold"],
    "alert": ["Above", "Alert", "Below", "Drifts", "Falls", "Silent", "Stale"],
    "curate": [
        "Curate", "Disagreement", "Diverse", "ExpectedError", "FeedbackDriven", "Mix", "Novel", "Projected", "Random",
        "Representative", "Similar", "Stratified", "Uncertain",
    ],
    "dataset": ["Balanced", "Dataset", "Everything", "Recent", "Replay", "Union", "Window"],
    "guard": ["Abstains", "Difference", "Disagreement", "Errors", "Guard", "Latency", "NoWorse", "SampleRatio"],
    "label": ["Either", "Feedback", "Functions", "Label", "Queue"],
    "log": ["Everything", "Log", "Profile", "Sample"],
    "offline": [
        "Approval", "AtLeast", "Baseline", "BeatsBaseline", "Calibrated", "DataChecks", "Forgets", "Human",
        "Latency", "Linear", "Majority", "NoWorse", "Offline", "Previous", "Rule", "Size", "Suites",
    ],
    "online": ["AB", "Bake", "Gradual", "Now", "Online", "Shadow", "Then"],
    "trigger": ["AllOf", "Amount", "AnyOf", "AtMost", "Degraded", "Drift", "Every", "Manual", "Trigger"],
}  # fmt: skip

OTHERS = {
    "augment": [
        "Augment", "Brighten", "DropWords", "Flip", "Jitter", "Shift", "SwapCells", "Typos", "augmented", "checked",
        "with_copies",
    ],
    "metrics": [
        "Accuracy", "EventRate", "EventValue", "F1", "Judged", "LogLoss", "MeanAbsoluteError", "Metric", "Rating",
        "Thumbs", "events_of", "match", "weighted_mean",
    ],
    "presets": [
        "Oracle", "amount", "degraded", "drift", "every_window", "everything", "never", "oracle", "periodic",
        "recent_replay", "sliding_window", "usual",
    ],
    "suites": [
        "Answer", "Case", "Cases", "Directional", "Invariant", "Labelled", "MinimumFunctionality", "Perturbed",
        "Sources", "Suite", "canonical", "to_lines",
    ],
    "trainers": ["Sklearn", "Torch"],
    "transforms": [
        "AsIs", "Flatten", "HashedNgrams", "OneHot", "Pipeline", "ScaleImage", "Standardise", "Transform",
        "default_transforms", "transform_from_json",
    ],
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(tm.__all__) == sorted([*NAMES, *MEMBERS, *OTHERS])
    assert sorted(dir(tm)) == sorted([*tm.__all__, "__version__"])


@pytest.mark.parametrize("name", [*NAMES, *MEMBERS, *OTHERS])
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert (getattr(tm, name).__doc__ or "").strip()


@pytest.mark.parametrize("family", MEMBERS)
def test_the_members_of_a_family_are_these(family: str) -> None:
    assert [n for n, kind in _own(getattr(tm, family)).items() if _is_member(kind)] == MEMBERS[family]


@pytest.mark.parametrize("module", OTHERS)
def test_the_public_names_of_a_module_are_these(module: str) -> None:
    assert list(_own(getattr(tm, module))) == OTHERS[module]


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'strategies'"):
        _ = tm.strategies


def test_import_tidemill_loads_nothing_but_itself() -> None:
    loaded = _loaded_by("import tidemill as tm; dir(tm)")
    ours = {name for name in loaded if name.partition(".")[0] == "tidemill"}
    assert ours == {"tidemill"}
    third_party = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - _always_there()
    assert third_party <= {"tidemill", "__main__"}


def test_naming_one_stage_loads_neither_stores_nor_trainers() -> None:
    loaded = _loaded_by("import tidemill as tm; tm.log.Everything()")
    assert not {"duckdb", "polars", "pyarrow", "sklearn", "sqlalchemy", "torch"} & loaded


def _own(module: ModuleType) -> dict[str, type]:
    """Return the public classes and functions that a module defines, by name."""
    found = {
        n: v for n, v in vars(module).items() if not n.startswith("_") and (inspect.isclass(v) or inspect.isfunction(v))
    }
    listed = getattr(module, "__all__", ())  # what a module shows of its neighbours
    return {n: found[n] for n in sorted(found) if found[n].__module__ == module.__name__ or n in listed}


def _is_member(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Member)


def _loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after running `code`."""
    code += "; import json, sys; print(json.dumps(list(sys.modules)))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", code], text=True)))


def _always_there() -> set[str]:
    """Return what an interpreter of this environment loads by itself, such as the finders of editable installs."""
    return {name.partition(".")[0] for name in _loaded_by("0")}
