"""The policy is re-fitted between trainings: a version of its own, with its reason, that a person can take back."""

from __future__ import annotations

from collections.abc import Callable

from harness import Harness

from tidemill.policy import Policy
from tidemill.records import Outcome

Make = Callable[..., Harness]
ADAPTS = {
    "strategy=tm.Strategy(": 'policy=tm.Policy(abstain_below=0.95),\n    strategy=tm.Strategy(\n        '
    'adapt=tm.adapt.Abstain(errors=0.2, every="5s", window="1h", trust="crowd"),'
}  # fmt: skip


def adapting(harness: Make) -> Harness:
    h = harness(edit=ADAPTS)
    h.app.publish()
    assert h.app.catalog.policy_in_force(h.name).policy == Policy(abstain_below=0.95)
    return h


def test_a_level_that_costs_answers_for_nothing_is_lowered_once_and_can_be_taken_back(harness: Make) -> None:
    h = adapting(harness)
    before = h.route
    h.seconds(12)
    policies = h.app.catalog.policies(h.name)
    assert policies[-1].policy == Policy()
    assert policies[-1].by == "loop"
    assert "moves from 0.95 to 0" in policies[-1].reason
    assert (h.route.stable, h.route.policy_version) == (before.stable, policies[-1].number)
    said = h.verdicts("adapt")
    assert [v.outcome for v in said] == [Outcome.PASS]
    assert len(policies) == 3  # the first, what was declared, and this one: it looked again, and changed nothing
    h.app.use_policy(before.policy_version, by="ann", reason="we like it strict")
    assert h.app.catalog.policy_in_force(h.name).policy == Policy(abstain_below=0.95)


def test_while_a_candidate_is_in_traffic_the_policy_stays(harness: Make) -> None:
    h = harness("tried", edit=ADAPTS)
    h.app.publish()
    during = set()
    for _ in range(60):
        before = h.route
        h.second()
        if before.rollout is not None and h.route.rollout is not None:
            during.add(h.route.policy_version)
    assert len(during) == 1
    assert h.outcomes() == ["promoted"]
    assert h.verdicts("adapt")
