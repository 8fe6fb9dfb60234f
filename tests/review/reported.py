"""A report that holds something of everything, and one of hostile text: what the renderings are tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tidemill.records import Outcome, Verdict
from tidemill.review.change import Change
from tidemill.review.failures import FailureGroup
from tidemill.review.report import EvaluationSet, Report
from tidemill.strategy.data_checked import Breach, DataChecked
from tidemill.strategy.evidence import Bin, Calibration, Cell, Forgotten
from tidemill.strategy.suite_result import FailedCase, SuiteResult

HOSTILE = "<script>alert('1')</script>&amp;\"'`|*_[x](http://evil.example)\x1b[31m\u202e{{ 7*7 }}\n# head"


def cell(cohort: str, live: float, candidate: float, *, n: int = 420, period: str = "", **more: Any) -> Cell:
    gain = candidate - live if more.get("higher_is_better", True) else live - candidate
    return Cell(
        metric=more.pop("metric", "accuracy"), cohort=cohort, period=period, n=n, candidate=candidate,
        candidate_low=candidate - 0.03, candidate_high=candidate + 0.03, live=live, gain=gain, low=gain - 0.02,
        high=gain + 0.02, **more,
    )  # fmt: skip


def full() -> Report:
    """Return a report on a candidate that is stopped: better on all rows, worse on one cohort."""
    cells = (
        cell(
            "all", 0.88, 0.913, baselines={"Majority()": 0.62, "Human(0.95)": 0.95}, outcome="pass", reason="no worse"
        ),
        cell("new_app", 0.66, 0.9, n=120, outcome="pass"),
        cell("old_app", 0.93, 0.81, n=80, outcome="fail", reason="worse"),
        cell("tiny", 0.5, 0.5, n=9, outcome="inconclusive"),
        cell("all", 0.4, 0.35, metric="log_loss", higher_is_better=False),
        *(cell("all", 0.9 - 0.02 * k, 0.9, n=100, period=f"2026-0{k + 1}") for k in range(4)),
        *(cell("new_app", 0.7 - 0.02 * k, 0.9, n=30, period=f"2026-0{k + 1}") for k in range(4)),
    )
    failed = FailedCase(
        id="line 3", inputs="text='bad word'", wanted="'toxic'", candidate="'ok'", live="'toxic'", new=True,
        note="seen in May",
    )  # fmt: skip
    suites = (
        SuiteResult(
            name="past_bugs", kind="Cases", version="3fa90c12", at_least=1.0, num_cases=50, num_failed=1,
            num_failed_live=0, num_new=1, failed=(failed,),
        ),
        SuiteResult(name="typos", kind="Invariant", version="77aa", at_least=0.95, sampled=True, num_cases=200,
                    num_failed=4, num_failed_live=6, num_new=2, num_fixed=4),
        SuiteResult(name="emoji", kind="Cases", version="", at_least=1.0, problem="emoji.jsonl does not exist."),
    )  # fmt: skip
    worse = "worse: accuracy on old_app: .93 -> .81 (-.12, -.14 to -.10, n 80)"
    gate = Verdict(outcome=Outcome.FAIL, by="gate", reason=f"NoWorse('accuracy', by='cohort'): {worse}", back_to="data")
    return Report(
        candidate=5,
        live=4,
        dataset="d41d8cd9",
        cells=cells,
        evaluation=EvaluationSet(version="3fa90c12", dataset=6, num_rows=420, since=4, num_new=60, num_gone=0),
        baselines=("Majority()", "Human(0.95)"),
        latency_ms_p50=2.1,
        latency_ms_p99=9.53,
        size_mb=12.4,
        calibration=Calibration(
            error=0.041, low=0.02, high=0.06, n=420,
            bins=tuple(Bin(confidence=0.4 + 0.08 * k, accuracy=0.35 + 0.085 * k, n=60) for k in range(7)),
        ),
        forgotten=(Forgotten(cohort="all", n=370, lost=12, share=12 / 370, low=0.02, high=0.05),),
        changes=(
            Change(name="app", what="values", distance=0.5, chance=0.06, before="v2 10.0%", after="v2 60.0%",
                   num_before=900, num_after=300),
            Change(name="x", what="values", distance=0.01, chance=0.08, before="mean 1.2", after="mean 1.2",
                   num_before=900, num_after=300),
        ),
        failures=(
            FailureGroup(size=18, loss_share=0.34, typical=("said ok, was toxic (16 of 18)", "app is 'v1'"),
                         ids=("r1", "r2")),
            FailureGroup(size=5, loss_share=0.1, typical=("said toxic, was ok (5 of 5)",), ids=("r9",)),
        ),
        suites=suites,
        data=(
            DataChecked(schema="s1", name="rows", num_rows=1200, breaches=(
                Breach(column="x", check="in_range(0, 1)", num_rows=3, values=("7.5",), ids=("r7",)),
            )),
        ),
        notes=("served as a Python model",),
        verdicts=(
            gate,
            replace(gate, by="NoWorse('accuracy', by='cohort')", reason=worse),
            Verdict(outcome=Outcome.PASS, by="Latency(30)", reason="p99 latency is 9.53 ms, wanted at most 30 ms"),
            Verdict(outcome=Outcome.INCONCLUSIVE, by="Calibrated()", reason="these rows cannot tell"),
        ),
    )  # fmt: skip


def hostile() -> Report:
    """Return the same with hostile text wherever a user, a client or a file puts text."""
    built = full()
    return replace(
        built,
        cells=tuple(
            replace(c, cohort=HOSTILE if c.cohort == "old_app" else c.cohort, baselines={HOSTILE: 0.5})
            for c in built.cells
        ),
        baselines=(HOSTILE,),
        failures=tuple(replace(g, typical=(HOSTILE,), ids=(HOSTILE,)) for g in built.failures),
        changes=tuple(replace(c, name=HOSTILE, before=HOSTILE, after=HOSTILE) for c in built.changes),
        suites=tuple(
            replace(s, name=HOSTILE, problem=HOSTILE if s.problem else "",
                    failed=tuple(replace(f, id=HOSTILE, inputs=HOSTILE, note=HOSTILE, live=HOSTILE) for f in s.failed))
            for s in built.suites
        ),
        data=tuple(
            replace(d, name=HOSTILE, breaches=tuple(replace(b, column=HOSTILE, values=(HOSTILE,)) for b in d.breaches))
            for d in built.data
        ),
        notes=(HOSTILE,),
        verdicts=tuple(replace(v, by=v.by if v.by == "gate" else HOSTILE, reason=HOSTILE) for v in built.verdicts),
    )  # fmt: skip
