"""`offline.Suites` blocks what behaves worse than wanted or than the live version, and says which cases show it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.records import Outcome, Verdict
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.offline import Suites
from tidemill.strategy.suite_result import FailedCase, SuiteResult

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def case(id_: str, *, new: bool = False) -> FailedCase:
    return FailedCase(id=id_, inputs="text='x'", wanted="'toxic'", candidate="'ok'", live="'toxic'", new=new)


def result(name: str = "bugs", *, failed: int = 0, live: int | None = 0, new: int | None = None, **more) -> SuiteResult:
    new = (failed if live is not None else 0) if new is None else new
    named = tuple(case(f"line {i}", new=i < new) for i in range(failed))
    fixed = 0 if live is None else live - (failed - new)
    return SuiteResult(
        name=name, kind="Cases", version="v1", at_least=more.pop("at_least", 1.0), num_cases=more.pop("num", 50),
        num_failed=failed, num_failed_live=live, num_new=new, num_fixed=fixed, failed=named, **more,
    )  # fmt: skip


def judge(*results: SuiteResult, member: Suites | None = None) -> Verdict:
    seen = Evidence(cells=(), candidate=2, live=1, now=NOW, suites=results)
    return (member or Suites()).judge(seen)


def test_all_that_is_wanted_passes_and_is_counted():
    verdict = judge(result(), result("typos", failed=4, live=5, new=2, num=200, at_least=0.95, sampled=True))
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == "bugs: 50 of 50 pass (live 50); typos: 196 of 200 pass (live 195)"
    assert verdict.numbers == {"suites": 2, "cases": 250, "failed": 4, "newly_failing": 2}


def test_a_newly_failing_case_is_named_first_with_what_was_said_and_wanted():
    verdict = judge(result("old", failed=1, live=1, new=0), result("bugs", failed=5, live=2, new=3))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith(
        "bugs: 45 of 50 pass (live 48): newly failing line 0 (text='x'): 'ok', wanted 'toxic'; newly failing line 1"
    )
    assert "and 2 more (wanted all); old: 49 of 50" in verdict.reason
    assert verdict.back_to == "data"


def test_changed_rows_lead_back_to_training():
    verdict = judge(result("typos", failed=40, live=0, num=200, at_least=0.95, sampled=True))
    assert (verdict.outcome, verdict.back_to) == (Outcome.FAIL, "training")
    assert "(wanted 95%)" in verdict.reason


def test_the_gate_may_ask_for_another_share_than_the_suites():
    one = result(failed=5, live=5, new=0)
    assert judge(one).outcome is Outcome.FAIL
    assert judge(one, member=Suites(at_least=0.9)).outcome is Outcome.PASS
    assert judge(one, member=Suites(at_least=0.91)).outcome is Outcome.FAIL


def test_one_more_failure_of_fixed_cases_is_worse_and_of_sampled_ones_may_be_chance():
    fixed = result(failed=2, live=1, new=1, at_least=0.9)
    assert judge(fixed).outcome is Outcome.FAIL
    assert "worse than the live version" in judge(fixed).reason
    assert judge(fixed, member=Suites(no_worse=False)).outcome is Outcome.PASS
    assert judge(replace(fixed, sampled=True)).outcome is Outcome.PASS
    assert judge(replace(fixed, sampled=True, num_failed=8, num_new=8, num_fixed=0)).outcome is Outcome.FAIL


def test_an_equal_candidate_is_seldom_called_worse_over_all_sampled_suites_together():
    rng, runs = np.random.default_rng(5), 2000
    blocked = 0
    for _ in range(runs):
        flips = rng.random((4, 200, 2)) < 0.03
        seen = [
            replace(
                result(f"s{k}", num=200, at_least=0.5, sampled=True),
                num_failed=int(f[:, 0].sum()), num_failed_live=int(f[:, 1].sum()),
                num_new=int((f[:, 0] & ~f[:, 1]).sum()), num_fixed=int((f[:, 1] & ~f[:, 0]).sum()),
            )
            for k, f in enumerate(flips)
        ]  # fmt: skip
        blocked += judge(*seen).outcome is Outcome.FAIL
    assert blocked / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_before_there_is_a_live_version_only_the_share_counts():
    assert judge(result(failed=2, live=None, at_least=0.9)).outcome is Outcome.PASS
    assert judge(result(failed=2, live=None)).outcome is Outcome.FAIL


def test_what_cannot_be_asked_is_inconclusive_which_blocks_unless_told_otherwise():
    broken = replace(result(), num_cases=0, problem="bugs.jsonl does not exist.")
    verdict = judge(broken)
    assert (verdict.outcome, verdict.back_to) == (Outcome.INCONCLUSIVE, "strategy")
    assert "bugs cannot be asked: bugs.jsonl does not exist." in verdict.reason
    assert Suites().inconclusive == "fail"
    assert judge(broken, result("other", failed=1)).outcome is Outcome.FAIL
    assert judge().outcome is Outcome.INCONCLUSIVE


def test_a_suite_without_cases_passes_and_is_named():
    verdict = judge(replace(result(live=None), num_cases=0))
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "bugs: no cases")


@pytest.mark.parametrize("share", [0, 1.5, -1])
def test_no_share_is_refused(share: float):
    with pytest.raises(ProjectError, match=r"offline\.Suites: at_least is"):
        Suites(at_least=share)
