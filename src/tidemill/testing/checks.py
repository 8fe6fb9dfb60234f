"""The promises that every stage keeps, as checks to run over a member of your own.

```python
from tidemill.testing.checks import check_stage

def test_my_trigger_keeps_the_promises():
    check_stage(MyTrigger(after=3))
```
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np

from tidemill.policy import Policy
from tidemill.records import Json, Outcome, Verdict
from tidemill.schema import Classes
from tidemill.strategy.adapt import Adapt
from tidemill.strategy.alert import Alert
from tidemill.strategy.curate import Curate
from tidemill.strategy.dataset import Dataset
from tidemill.strategy.gate import Offline
from tidemill.strategy.guard import Guard
from tidemill.strategy.label import Label
from tidemill.strategy.log import Log
from tidemill.strategy.member import Member
from tidemill.strategy.online import Online
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.trigger import Trigger
from tidemill.testing import facts

METRIC = "accuracy"  # stands for the project's first metric
_SEEDS = (0, 1, 2)


def check_stage(member: Member) -> None:
    """Check all that is promised of a stage member.

    Raises:
        AssertionError: a promise is broken; the message names the member and the promise.
    """
    for promise in promises(member):
        promise(member)


def promises(member: Member) -> Iterator[Callable[[Any], None]]:
    """Yield the checks that hold for `member`: those of all members, and those of its family."""
    yield from (check_documented, check_frozen, check_copies_are_equal, check_json, check_shown)
    yield from (check for family, check in _FAMILIES.items() if isinstance(member, family))


def check_documented(member: Member) -> None:
    """Its class says what it promises."""
    doc = type(member).__dict__.get("__doc__") or ""
    _require(bool(doc.strip()) and not doc.startswith(f"{type(member).__name__}("), member, "has a docstring")


def check_frozen(member: Member) -> None:
    """No parameter can be set after it is made."""
    for spec in fields(member):  # type: ignore[arg-type]
        try:
            setattr(member, spec.name, getattr(member, spec.name))
        except FrozenInstanceError:
            continue
        _require(False, member, f"is frozen, yet {spec.name} can be set")


def check_copies_are_equal(member: Member) -> None:
    """Equal parameters make equal members, with equal hash and digest."""
    copied = replace(member)  # type: ignore[type-var]
    _require(copied == member, member, "equals a copy of itself")
    _require(hash(copied) == hash(member), member, "has the hash of a copy of itself")
    _require(copied.digest() == member.digest(), member, "has the digest of a copy of itself")


def check_json(member: Member) -> None:
    """Its JSON is plain, complete, and makes an equal member where no member or function is a parameter."""
    data = member.to_json()
    _require(_plain(data) == data, member, "has JSON that is plain")
    said = {s.name for s in fields(member) if getattr(member, s.name) != s.default}  # type: ignore[arg-type]
    _require(said <= set(data["params"]), member, "has all parameters in its JSON that are not at their default")
    _require(set(data["params"]) <= {s.name for s in fields(member)}, member, "has nothing else in its JSON")  # type: ignore[arg-type]
    if not _has_dict(data["params"]):
        made = type(member).from_params(_plain(data)["params"])
        _require(made == member and made.digest() == member.digest(), member, "is made again from its JSON")


def check_shown(member: Member) -> None:
    """Its repr shows all parameters, and its text is one line that another member does not have."""
    shown = repr(member)
    named = all(f"{s.name}=" in shown for s in fields(member) if s.repr)  # type: ignore[arg-type]
    _require(shown.startswith(type(member).__name__) and named, member, "has a repr with all parameters")
    text = str(member)
    _require(bool(text) and "\n" not in text and "<" not in text, member, "has a text of one line, without addresses")


def check_log(member: Log) -> None:
    """Probabilities are probabilities, and depend on nothing but the request."""
    for rng in _rngs():
        for request in facts.requests(rng, 50, tags=_tags(member)):
            kept = _pure(member, member.keep, request)
            _require(0.0 <= kept.probability <= 1.0, member, "gives probabilities")


def check_curate(member: Curate) -> None:
    """Picks are different candidates, at most `budget`, with reasons and probabilities; the generator decides alone."""
    for rng in _rngs():
        for num, budget in ((0, 5), (1, 1), (40, 0), (40, 7), (40, 100)):
            there, context = facts.candidates(rng, num, member.needs().columns), facts.context(rng, num, member.needs())
            picks = _pure(member, member.pick, there, context, budget, np.random.default_rng(num))
            _require(
                len(set(picks.ids)) == len(picks.ids) <= max(0, budget), member, "picks each once, within the budget"
            )
            _require(set(picks.ids) <= set(there.ids), member, "picks candidates")
            _require(len(picks.ids) == len(picks.reasons) == len(picks.probabilities), member, "gives each a reason")
            _require(all(picks.reasons), member, "gives each a reason")
            chances = [p for p in picks.probabilities if p is not None]
            _require(all(0.0 < p <= 1.0 + 1e-12 for p in chances), member, "gives probabilities above 0")


def check_label(member: Label) -> None:
    """The allowance never falls and begins at 0 or a budget; the horizon is a time."""
    given = [_pure(member, member.allowance, timedelta(hours=h)) for h in range(0, 80, 5)]
    _require(given == sorted(given) and given[0] >= 0, member, "has an allowance that never falls")
    _require(isinstance(member.horizon, timedelta), member, "has a horizon")
    sources = (member.queue, member.feedback, member.functions)
    _require(any(source is not None for source in sources), member, "has a source of labels")


def check_trigger(member: Trigger) -> None:
    """Its state is JSON, and its verdicts are fire, quiet or unknown, with a reason."""
    trigger = member.resolved(METRIC)
    for rng in _rngs():
        state, needs = trigger.start(), trigger.needs()
        forming = facts.Forming(needs)
        for hour in range(3):
            news = forming.add(facts.watch_facts(rng, needs.metrics, hour=hour, drift=needs.drift))
            state = _pure(member, trigger.update, _stored(member, state), news)
            verdict = _pure(member, trigger.decide, _stored(member, state), news.now)
            _check_verdict(member, verdict, (Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN))


def check_dataset(member: Dataset) -> None:
    """It selects training examples only, in the order of the index, each once, with weights above 0."""
    for rng in _rngs():
        for num in (0, 60):
            index = facts.examples(rng, num)
            chosen = _pure(member, member.form, index, facts.NOW, np.random.default_rng(num))
            where = {id_: i for i, id_ in enumerate(index.ids)}
            order = [where[id_] for id_ in chosen.ids]
            _require(order == sorted(set(order)), member, "selects each once, in the order of the index")
            _require(all(index.split[i] == "train" for i in order), member, "selects training examples only")
            _require(len(chosen.weights) == len(order) and all(w > 0 for w in chosen.weights), member, "gives weights")


def check_offline(member: Offline) -> None:
    """Its verdicts are pass, fail, inconclusive or (it waits for a person) unknown, and have a reason."""
    offline = member.resolved(METRIC)
    for rng in _rngs():
        for _ in range(10):
            seen = facts.report_evidence(
                rng, offline.needs().metrics or (METRIC,), cohorts=("new", "old"), schema=_schema_of(offline)
            )
            verdict = _pure(member, offline.judge, seen)
            _check_verdict(member, verdict, (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.UNKNOWN))
            failed = verdict.outcome is Outcome.FAIL
            _require(not failed or bool(verdict.back_to), member, "names the step to go back to when it fails")


def _schema_of(member: Offline) -> str:
    return next((digest for digest, _ in member.needs().data), "")


def check_online(member: Online) -> None:
    """Its state is JSON; its actions are known ones, with a share of traffic and a reason."""
    online = member.resolved(METRIC)
    for rng in _rngs():
        state = _pure(member, online.start, facts.NOW)
        for hour in range(4):
            news = facts.rollout_facts(rng, online.needs().metrics, hour=hour)
            state = _pure(member, online.update, _stored(member, state), news)
            action = _pure(member, online.decide, _stored(member, state), news.now)
            _check_verdict(member, action.verdict, tuple(Outcome))
            _require(0.0 <= action.share <= 1.0, member, "gives a share of traffic")
            state = action.state
            if action.kind in ("promote", "rollback"):
                break


def check_guard(member: Guard) -> None:
    """Its state is JSON, and its verdicts are pass, fail or inconclusive, with a reason."""
    guard = member.resolved(METRIC)
    for rng in _rngs():
        state = _pure(member, guard.start, (2.0,))
        for hour in range(3):
            rows: Outcomes = facts.rollout_facts(rng, guard.needs().metrics, hour=hour).requests
            state = _pure(member, guard.update, _stored(member, state), rows, rows)
            verdict = _pure(member, guard.decide, _stored(member, state), 2.0)
            _check_verdict(member, verdict, (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE))


def check_adapt(member: Adapt) -> None:
    """It gives a policy that fits the output, with a reason; nothing known changes nothing."""
    output = Classes(["a", "b", "c"])
    for rng in _rngs():
        for num in (0, 5, 800):
            known = facts.known_answers(rng, num)
            refit = _pure(member, member.fit, known, output, Policy())
            _check_verdict(member, refit.verdict, (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE))
            refit.policy.check(output)
            _require(num > 0 or refit.policy == Policy(), member, "changes nothing when nothing is known")


def check_alert(member: Alert) -> None:
    """Its state is JSON, and its verdicts are fire, quiet or unknown, with a reason."""
    needs = member.needs() or OutcomeNeeds()
    metrics = needs.metrics
    for rng in _rngs():
        state, forming = _pure(member, member.start), facts.Forming(needs)
        for hour in range(3):
            seen = forming.add_alert(facts.alert_facts(rng, metrics, hour=hour, drift=needs.drift))
            state = _pure(member, member.update, _stored(member, state), seen)
            verdict = _pure(member, member.decide, _stored(member, state), seen.now)
            _check_verdict(member, verdict, (Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN))
            told = _pure(member, member.told, _stored(member, state))
            again = member.decide(told, seen.now)
            if metrics:
                _require(again.outcome is not Outcome.FIRE, member, "uses its evidence up once it has fired")


_FAMILIES: Mapping[type[Member], Callable[[Any], None]] = {
    Log: check_log,
    Curate: check_curate,
    Label: check_label,
    Trigger: check_trigger,
    Dataset: check_dataset,
    Offline: check_offline,
    Online: check_online,
    Adapt: check_adapt,
    Alert: check_alert,
    Guard: check_guard,
}


def _require(ok: bool, member: Member, promise: str) -> None:
    if not ok:
        raise AssertionError(f"{member!r} breaks a promise: it {promise}")


def _check_verdict(member: Member, verdict: Verdict, allowed: Sequence[Outcome]) -> None:
    _require(verdict.outcome in allowed, member, f"says one of {', '.join(allowed)}")
    _require(bool(verdict.reason.strip()) and bool(verdict.by), member, "gives a reason, in its own name")
    data = verdict.to_json()
    _require(_plain(data) == data, member, "gives numbers that are plain JSON")


def _pure(member: Member, verb: Callable[..., Any], *arguments: Any) -> Any:
    """Call a verb twice with equal arguments: the results are equal, and the arguments are as they were."""
    before, again = copy.deepcopy(arguments), copy.deepcopy(arguments)
    result = verb(*arguments)
    _require(same(result, verb(*again)), member, f"gives equal answers to equal questions ({verb.__name__})")
    unchanged = [same(a, b) for a, b in zip(arguments, before, strict=True) if not isinstance(a, np.random.Generator)]
    _require(all(unchanged), member, f"leaves what it is given as it was ({verb.__name__})")
    return result


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal through and through, arrays and NaN included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and same(a.tolist(), b.tolist())
    if is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(same(getattr(a, s.name), getattr(b, s.name)) for s in fields(a))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)  # noqa: PLR0124


def _stored(member: Member, state: Json) -> Json:
    """Return a state as it comes back from the journal."""
    back = _plain(state)
    _require(same(back, state), member, "keeps a state that is plain JSON")
    return back


def _plain(data: Json) -> Json:
    return json.loads(json.dumps(data, allow_nan=False))


def _has_dict(data: Json) -> bool:
    if isinstance(data, list):
        return any(map(_has_dict, data))
    return (
        any(map(_has_dict, data.values())) or "member" in data or "callable" in data
        if isinstance(data, dict)
        else False
    )


def _tags(member: Log) -> tuple[str, ...]:
    by = getattr(member, "by", None)
    return (by,) if isinstance(by, str) else ("country",)


def _rngs() -> Iterator[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in _SEEDS)
