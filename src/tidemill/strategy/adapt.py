"""Online adaptation: the policy's levels re-fitted on what is known of the live version's answers, without retraining.

A member proposes a policy, and says what is guaranteed. Levels are tried from a careful one down, each by an exact
binomial test, until one does not pass: the last that did keeps the error at or below the target with a chance of
1 - alpha (fixed-sequence testing with several starts: Angelopoulos, Bates, Candes, Jordan & Lei, "Learn then test",
Annals of Applied Statistics 2025, arXiv 2110.01052; for abstaining: Geifman & El-Yaniv, "Selective classification for
deep neural networks", NeurIPS 2017). Where to begin is read off the scores alone. The rows that were held out must not
contradict it, or nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar

import numpy as np
from scipy import special

from tidemill.policy import Policy
from tidemill.records import Outcome, Scalar, Trust, Verdict
from tidemill.schema import Array, Classes, Output
from tidemill.strategy.member import Member
from tidemill.strategy.span import Span
from tidemill.strategy.wording import counted, more, percent

_LEVELS = np.linspace(0.0, 1.0, 101)  # fixed beforehand, as the guarantee asks
_STARTS = (0.0, 0.05, 0.1, 0.2, 0.5)  # the share of the rows that is decided where a search begins
_CONTRADICTED = 0.05
_NEWS = 0.005  # a level moves when it moves by more than that


@dataclass(frozen=True, kw_only=True)
class Known:
    """N answers of the live version whose label is known, one per unit; `held_out` rows only test what others fit."""

    scores: Array  # float64 (N, K)
    labels: Array  # object (N,)
    held_out: Array  # bool (N,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class AdaptNeeds:
    """How often it is asked, over how much of the past, from labels of what trust."""

    every: timedelta
    window: timedelta
    trust: Trust


@dataclass(frozen=True, kw_only=True)
class Refit:
    """The policy to be in force from now on, and why; the one that is, when nothing is to change."""

    policy: Policy
    verdict: Verdict


class Adapt(Member):
    """Base of the adaptation stage: `needs`, `fit`."""

    stage: ClassVar[str] = "adapt"

    def needs(self) -> AdaptNeeds | None:
        """Return what it reads, None when it never adapts."""
        return None

    def fit(self, known: Known, output: Output, policy: Policy) -> Refit:
        """Return the policy to use instead of `policy`: PASS when it changes or holds, else what lacks."""
        raise NotImplementedError


@dataclass(frozen=True)
class Never(Adapt):
    """Leaves the policy to people."""

    def fit(self, known: Known, output: Output, policy: Policy) -> Refit:
        """Return the policy as it is."""
        return Refit(policy=policy, verdict=Verdict(outcome=Outcome.PASS, by=str(self), reason="people set the policy"))


@dataclass(frozen=True)
class _Fitted(Adapt):
    """Shared by the members that look for the lowest level that keeps an error at or below a target."""

    every: Span = Span("1d")
    window: Span = Span("30d")
    alpha: float = 0.05
    trust: str = Trust.PEOPLE
    durations: ClassVar[tuple[str, ...]] = ("every", "window")

    def check(self) -> None:
        """Refuse chances, durations and trusts that are none."""
        self.require(0 < self.alpha < 1, f"alpha is {self.alpha!r}", "give the accepted chance of a wrong level")
        self.require(0 < self._target() < 1, f"the error allowed is {self._target()!r}", "give a share such as 0.05")
        self.require(self.every > timedelta(0), f"every is {self.every}", "give how often to look, such as '1d'")
        self.require(self.trust in list(Trust), f"trust is {self.trust!r}", f"use one of {', '.join(Trust)}")

    def needs(self) -> AdaptNeeds:
        """Return how often it looks, how far back, and at which labels."""
        return AdaptNeeds(every=self.every, window=self.window, trust=Trust(self.trust))

    def fit(self, known: Known, output: Output, policy: Policy) -> Refit:
        """Fit the level on one half of the rows, and let the other half speak against it."""
        score, wrong = self._errors(known, output, policy)
        fitted = _lowest_level(score[~known.held_out], wrong[~known.held_out], target=self._target(), alpha=self.alpha)
        before = self._level(policy)
        if fitted is None:
            return Refit(policy=policy, verdict=self._too_little(score, wrong, known))
        chosen = score >= fitted
        numbers = {"level": fitted, "before": before, "target": self._target(), **_seen(chosen, wrong, known.held_out)}
        if _contradicts(wrong[known.held_out & chosen], self._target()):
            reason = f"a level of {fitted:g} fits, and the rows held out speak against it: {self._told(numbers)}"
            return Refit(policy=policy, verdict=self._verdict(Outcome.FAIL, reason, numbers, "data"))
        if abs(fitted - before) <= _NEWS:
            reason = f"the level stays at {before:g}: {self._told(numbers)}"
            return Refit(policy=policy, verdict=self._verdict(Outcome.PASS, reason, numbers))
        reason = f"the level moves from {before:g} to {fitted:g}: {self._told(numbers)}"
        return Refit(policy=self._with(policy, fitted), verdict=self._verdict(Outcome.PASS, reason, numbers))

    def _target(self) -> float:
        raise NotImplementedError

    def _level(self, policy: Policy) -> float:
        raise NotImplementedError

    def _with(self, policy: Policy, level: float) -> Policy:
        raise NotImplementedError

    def _errors(self, known: Known, output: Output, policy: Policy) -> tuple[Array, Array]:
        """Return the score that the level is compared with, and whether deciding would be wrong: (N,) each."""
        raise NotImplementedError

    def _too_little(self, score: Array, wrong: Array, known: Known) -> Verdict:
        rows, least = int((~known.held_out).sum()), fewest(self._target(), self.alpha / len(_STARTS))
        numbers: dict[str, Scalar] = {"outcomes": rows, "fewest": least, "target": self._target()}
        if rows < least:
            lacks = f"{more(2 * (least - rows), 'outcome')} at least"
        else:
            lacks = f"no level keeps errors at or below {percent(self._target())} with that much certainty yet"
        return self._verdict(Outcome.INCONCLUSIVE, f"{counted(rows, 'outcome')} to fit on: {lacks}", numbers)

    def _told(self, numbers: Mapping[str, Scalar]) -> str:
        return (
            f"{numbers['fit_wrong']} of {numbers['fit']} wrong where it was fitted, {numbers['held_out_wrong']} of "
            f"{numbers['held_out']} held out; at most {percent(self._target())} are, with a chance of "
            f"{percent(1 - self.alpha)}, and {percent(float(numbers['decided'] or 0))} are decided"
        )

    def _verdict(self, outcome: Outcome, reason: str, numbers: Mapping[str, Scalar], back_to: str = "") -> Verdict:
        return Verdict(outcome=outcome, by=str(self), reason=reason, numbers=numbers, back_to=back_to)


@dataclass(frozen=True)
class Abstain(_Fitted):
    """Re-fits the level below which the model abstains: of what it decides, at most `errors` are wrong.

    The guarantee is for answers like those of the window, with a chance of 1 - `alpha`; the lowest such level is taken,
    so that as much as possible is decided.
    """

    errors: float = 0.05

    def _target(self) -> float:
        return self.errors

    def _level(self, policy: Policy) -> float:
        return policy.abstain_below or 0.0

    def _with(self, policy: Policy, level: float) -> Policy:
        return replace(policy, abstain_below=level or None)

    def _errors(self, known: Known, output: Output, policy: Policy) -> tuple[Array, Array]:
        decided = replace(policy, abstain_below=None).decide(output, known.scores)
        if isinstance(output, Classes):
            index = output.targets(decided.decisions)
            score = known.scores[np.arange(len(known)), index]
        else:
            score = known.scores.max(axis=1)
        wrong = np.array([a != b for a, b in zip(decided.decisions, known.labels, strict=True)], dtype=bool)
        return score, wrong


@dataclass(frozen=True)
class Threshold(_Fitted):
    """Re-fits the score from which one class is decided: at least `precision` of those decisions are right."""

    label: str = ""
    precision: float = 0.9

    def check(self) -> None:
        """Refuse a threshold of no class."""
        super().check()
        self.require(bool(self.label), "no label is named", "name the class, such as label='toxic'")

    def _target(self) -> float:
        return 1 - self.precision

    def _level(self, policy: Policy) -> float:
        return policy.thresholds.get(self.label, 0.0)

    def _with(self, policy: Policy, level: float) -> Policy:
        others = {name: at for name, at in policy.thresholds.items() if name != self.label}
        return replace(policy, thresholds={**others, **({self.label: level} if level > 0 else {})})

    def _errors(self, known: Known, output: Output, policy: Policy) -> tuple[Array, Array]:
        score = known.scores[:, int(output.targets([self.label])[0])]
        return score, np.array([label != self.label for label in known.labels], dtype=bool)


def fewest(target: float, alpha: float) -> int:
    """Return how many decisions without an error show an error rate of at most `target`."""
    return math.ceil(math.log(alpha) / math.log(1 - target))


def _lowest_level(score: Array, wrong: Array, *, target: float, alpha: float) -> float | None:
    """Return the lowest of the levels that are shown to keep the error at or below `target`, None if none is.

    The levels are gone through from several starts, each with its part of `alpha`: the most careful levels decide so
    little that one unlucky row among them would end the search.
    """
    num = np.array([(score >= level).sum() for level in _LEVELS])
    errors = np.array([wrong[score >= level].sum() for level in _LEVELS])
    shown = special.bdtr(errors, np.maximum(num, 1), target) <= alpha / len(_STARTS)
    lowest = None
    for part in _STARTS:
        enough = np.flatnonzero(num >= max(fewest(target, alpha / len(_STARTS)), part * len(score)))
        for at in enough[::-1]:
            if not shown[at]:
                break
            lowest = int(at) if lowest is None else min(lowest, int(at))
    return None if lowest is None else round(float(_LEVELS[lowest]), 2)


def _contradicts(wrong: Array, target: float) -> bool:
    """Tell whether so many errors among held-out decisions are unlikely at an error of `target`."""
    return bool(len(wrong)) and float(special.bdtrc(int(wrong.sum()) - 1, len(wrong), target)) < _CONTRADICTED


def _seen(chosen: Array, wrong: Array, held_out: Array) -> dict[str, Scalar]:
    return {
        "fit": int((chosen & ~held_out).sum()),
        "fit_wrong": int((chosen & wrong & ~held_out).sum()),
        "held_out": int((chosen & held_out).sum()),
        "held_out_wrong": int((chosen & wrong & held_out).sum()),
        "decided": float(chosen.mean()),
    }
