"""The six stages as one value: defaults, checks, digest and differences."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tidemill.errors import ProjectError
from tidemill.strategy import curate, dataset, guard, label, log, offline, online, trigger
from tidemill.strategy.strategy import Strategy, diff_json

DROPS = trigger.Degraded("f1", drop=0.03)
RICH = {
    "log": log.Sample(0.1, by="country", rates={"no": 1}),
    "curate": curate.Uncertain(0.6) + curate.Random(0.2),
    "label": label.Queue(200) | label.Feedback(horizon="2d"),
    "trigger": DROPS | trigger.Every("30d"),
    "dataset": dataset.Window("90d") + dataset.Replay(20_000),
    "offline": [offline.NoWorse("f1", by="cohort"), offline.Latency(30)],
    "online": online.Shadow(2_000) >> online.Gradual((0.05, 1.0), guards=[guard.Errors(), guard.NoWorse("f1")]),
    "curate_every": "10m",
}


def rich(**changes: object) -> Strategy:
    return Strategy(**{**RICH, **changes})  # type: ignore[arg-type]


def test_a_strategy_of_no_arguments_is_whole():
    plain = Strategy()
    assert plain.log == log.Everything()
    assert plain.curate == curate.Random()
    assert plain.label == label.Feedback()
    assert str(plain.trigger) == "(Degraded() | Every()).at_most('1d')"
    assert plain.dataset == dataset.Everything()
    assert plain.offline == (offline.NoWorse(by="cohort"),)
    assert str(plain.online).startswith("Shadow() >> Gradual(")
    assert (plain.curate_every, plain.train_timeout) == (timedelta(hours=1), timedelta(hours=6))


def test_equal_strategies_are_equal_through_and_through():
    assert rich() == rich(curate_every=timedelta(minutes=10))
    assert hash(rich()) == hash(rich())
    assert rich().digest() == rich(label=label.Queue(200) | label.Feedback(horizon="48h")).digest()
    assert rich().digest() != rich(curate_every="11m").digest()
    assert len(rich().digest()) == 16


def test_the_json_is_plain_and_holds_every_stage():
    data = rich().to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        "log", "curate", "label", "trigger", "dataset", "offline", "online", "adapt",
        "curate_every", "train_timeout", "start_from", "test_trust",
    ]  # fmt: skip
    assert [member["member"] for member in data["offline"]] == ["NoWorse", "Latency"]


@pytest.mark.parametrize(
    ("stage", "value", "message"),
    [
        (
            "trigger",
            offline.NoWorse("f1"),
            "strategy.trigger is NoWorse('f1'), a member of offline, and not of trigger",
        ),
        ("offline", [offline.Approval(), online.Now()], "strategy.offline is Now(), a member of online, and not of"),
        ("offline", guard.NoWorse("f1"), "strategy.offline is NoWorse('f1'), a member of guard, and not of offline"),
        ("dataset", log.Everything(), "strategy.dataset is Everything(), a member of log, and not of dataset"),
        ("curate", "random", "strategy.curate is 'random', of type str, and not of curate"),
        ("label", None, "strategy.label is None, of type NoneType, and not of label"),
        ("log", log.Everything, "of type type, and not of log"),
        ("online", [online.Now()], "strategy.online is [Now()], of type list, and not of online"),
    ],
)
def test_a_stage_of_the_wrong_family_is_named_with_its_value_and_the_family_wanted(
    stage: str, value: object, message: str
):
    with pytest.raises(ProjectError) as error:
        Strategy(**{stage: value})  # type: ignore[arg-type]
    assert message in error.value.message
    assert error.value.hint == f"give a member of tm.{stage}"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"curate_every": "often"}, "Strategy.curate_every is 'often', which is not a duration"),
        ({"curate_every": "0s"}, "curate_every is 0"),
        ({"train_timeout": "0s"}, "train_timeout is 0"),
        ({"start_from": "yesterday"}, "start_from is 'yesterday'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], problem: str):
    with pytest.raises(ProjectError, match=problem):
        Strategy(**changes)  # type: ignore[arg-type]


def test_one_offline_test_needs_no_list_and_none_may_be_asked_for():
    assert Strategy(offline=offline.Approval()).offline == (offline.Approval(),)
    assert Strategy(offline=[]).offline == ()


def test_random_is_there_whatever_the_curation():
    stage = Strategy(curate=curate.Uncertain()).curate
    assert isinstance(stage, curate.Mix)
    assert stage.shares == pytest.approx((0.9, 0.1))


def test_none_means_the_first_metric_of_the_project_wherever_it_stands():
    resolved = Strategy().resolved("f1_toxic")
    assert resolved.offline == (offline.NoWorse("f1_toxic", by="cohort"),)
    assert resolved.trigger.needs().metrics == ("f1_toxic",)
    assert resolved.online.needs().metrics == ("f1_toxic",)
    assert rich().resolved("accuracy") == rich()  # a metric that is named stays
    assert resolved.resolved("other") == resolved


def test_a_metric_that_is_not_right_or_wrong_is_passed_on_as_such():
    parts = Strategy().resolved("log_loss", binary=False).trigger.trigger.members  # type: ignore[attr-defined]
    assert parts[0] == trigger.Degraded("log_loss", drop=0.03, binary=False)


def test_equal_strategies_have_no_difference():
    assert rich().diff(rich()) == []


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"log": log.Everything()}, ["log: Sample(rate=0.1, by='country', rates=(('no', 1))) -> Everything()"]),
        ({"log": log.Sample(0.2, by="country", rates={"no": 1})}, ["log.Sample.rate: 0.1 -> 0.2"]),
        ({"trigger": DROPS | trigger.Every("7d")}, ["trigger.Every.period: 30d -> 7d"]),
        ({"trigger": trigger.Degraded("f1", drop=0.05) | trigger.Every()}, ["trigger.Degraded.drop: 0.03 -> 0.05"]),
        ({"trigger": DROPS}, ["trigger: removed Every()"]),
        (
            {"trigger": DROPS & trigger.Every()},
            [
                "trigger: AnyOf(members=(Degraded(metric='f1'), Every())) -> "
                "AllOf(members=(Degraded(metric='f1'), Every()))"
            ],
        ),
        ({"label": label.Queue(200)}, ["label: removed Feedback()"]),
        ({"curate": curate.Random(0.2) + curate.Uncertain(0.5)}, ["curate.Uncertain.share: 0.6 -> 0.5"]),
        ({"dataset": dataset.Window("90d")}, ["dataset: removed Replay(num=20000)"]),
        (
            {"offline": [offline.Latency(50), offline.NoWorse("f1", by="cohort"), offline.Approval()]},
            [
                "offline.Latency.p99_ms: 30 -> 50",
                "offline: added Approval()",
                "offline: the order is now Latency, NoWorse, Approval",
            ],
        ),
        (
            {"online": online.Shadow(500) >> online.Gradual((0.05, 1.0), guards=[guard.Errors()])},
            ["online.Shadow.requests: 2000 -> 500", "online.Gradual.guards: removed NoWorse(metric='f1')"],
        ),
        ({"curate_every": "2h", "start_from": "live"}, ["curate_every: 10m -> 2h", "start_from: 'scratch' -> 'live'"]),
    ],
)
def test_a_difference_is_one_line_for_each_thing_that_changed(changes: dict[str, object], lines: list[str]):
    assert rich().diff(rich(**changes)) == lines


def test_versions_written_by_another_program_still_compare():
    old = rich().to_json()
    del old["start_from"]
    old["trigger"]["params"]["members"][1] = {"stage": "trigger", "member": "Moonlight", "params": {"phase": 0.5}}
    assert diff_json(old, rich().to_json()) == [
        "trigger: removed Moonlight(phase=0.5)",
        "trigger: added Every()",
        "start_from: None -> 'scratch'",
    ]


def test_the_text_has_one_line_for_each_stage():
    lines = str(rich()).splitlines()
    assert lines[1].split() == ["curate", "Uncertain(0.6)", "+", "Random(0.2)"]
    assert lines[7].split() == ["adapt", "Never()"]
    assert lines[8].split() == ["curate_every", "10m"]


def test_editing_the_code_of_a_users_own_member_makes_another_strategy(tmp_path, monkeypatch):
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    code = (
        "from dataclasses import dataclass\nfrom tidemill.strategy.trigger import Manual\n\n"
        "@dataclass(frozen=True)\nclass Mine(Manual):\n    '''Mine.'''\n\n    def extra(self): return {}\n"
    )
    sources = []
    for number in (1, 2):
        (tmp_path / f"mine{number}.py").write_text(code.replace("return {}", f"return {number}"))
        importlib.invalidate_caches()
        module = importlib.import_module(f"mine{number}")
        sources.append(module.Mine().to_json()["code"]["source"])
        sys.modules.pop(f"mine{number}")
    assert sources[0] != sources[1]
