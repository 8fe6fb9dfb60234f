"""How often an event befalls the candidate, as a ratio to the live model, tested at every look without spending alpha.

Given that an event (an error, a failure, a slow answer) happened to a request that the candidate was to answer with
chance `share`, it belongs to the candidate with chance

    share * ratio / (share * ratio + 1 - share)

whatever the rate of events was at that hour: only the ratio of the two rates matters. The likelihood of the arms that
the events fell on, mixed over a grid of ratios beyond a margin and divided by the likelihood at the margin, is an
e-process for "the ratio is not beyond the margin": it exceeds 1 / alpha, ever, with a chance of at most alpha.

Source: Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv 2011.03567; the
threshold is Ville's inequality. The guarantee is exact for independent units whose arm was drawn with a known share,
and needs events to be noticed equally often in both arms. Units that come back count once (`stats.first_seen`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BEYOND = np.exp(np.linspace(0.02, np.log(30.0), 48))  # multiples of the margin that the alternative is mixed over
_AWAY = np.exp(np.geomspace(0.01, np.log(10.0), 32))
_APART = np.concatenate([1 / _AWAY[::-1], _AWAY])  # ratios other than 1, fine near it: a mismatch is mostly small
_RATIOS = np.exp(np.linspace(-np.log(100.0), np.log(100.0), 921))  # steps of 1 % that an interval ends on
_AHEAD = np.unique(np.round(np.geomspace(1, 1e7, 240)))  # how far `more_events` looks


@dataclass(frozen=True)
class ArmCounts:
    """What was seen while the candidate had one share of the traffic."""

    share: float
    candidate: int = 0
    candidate_events: int = 0
    stable: int = 0
    stable_events: int = 0


@dataclass(frozen=True)
class EventRatio:
    """Counts by share: all that any margin, in either direction, needs to know, in any order and any batches."""

    counts: tuple[ArmCounts, ...] = ()

    def add(self, *, share: Array, candidate: Array, event: Array) -> EventRatio:
        """Count N rows.

        Args:
            share: (N,) the candidate's share when the row was routed. Rows under 0 or 1 tell nothing and are left out.
            candidate: (N,) bool, whether the candidate was assigned.
            event: (N,) 1 or True where the event happened, 0 or False where not, NaN where it is not known (left out).
        """
        event = np.asarray(event, dtype=np.float64)
        told = (share > 0) & (share < 1) & ~np.isnan(event)
        shares, of = np.unique(share[told], return_inverse=True)
        arm, hit = candidate[told].astype(np.float64), event[told]
        sums = [np.bincount(of, w, len(shares)) for w in (arm, arm * hit, 1 - arm, (1 - arm) * hit)]
        merged = {row.share: row for row in self.counts}
        for i, value in enumerate(shares.tolist()):
            old = merged.get(value, ArmCounts(value))
            new = [int(column[i]) for column in sums]
            merged[value] = ArmCounts(
                value,
                old.candidate + new[0],
                old.candidate_events + new[1],
                old.stable + new[2],
                old.stable_events + new[3],
            )
        return EventRatio(tuple(merged[value] for value in sorted(merged)))

    def to_json(self) -> list[list[float]]:
        """Return a row of five numbers per share."""
        return [[r.share, r.candidate, r.candidate_events, r.stable, r.stable_events] for r in self.counts]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[float]]) -> EventRatio:
        """Read what `to_json` wrote."""
        return cls(tuple(ArmCounts(float(share), *(int(n) for n in rest)) for share, *rest in data))

    @property
    def num_candidate(self) -> int:
        """Rows of the candidate."""
        return sum(row.candidate for row in self.counts)

    @property
    def num_stable(self) -> int:
        """Rows of the live model."""
        return sum(row.stable for row in self.counts)

    @property
    def sum_candidate(self) -> int:
        """Events of the candidate."""
        return sum(row.candidate_events for row in self.counts)

    @property
    def sum_stable(self) -> int:
        """Events of the live model."""
        return sum(row.stable_events for row in self.counts)

    @property
    def ratio(self) -> float:
        """The estimated ratio of the two rates, drawn towards 1 by half an event on each side; 1 when none was seen.

        Mantel-Haenszel over the shares, so that a base rate that moved between steps does not pass for a difference.
        """
        candidate = sum(row.candidate_events * (1 - row.share) for row in self.counts)
        stable = sum(row.stable_events * row.share for row in self.counts)
        return (candidate + 0.5) / (stable + 0.5)

    def log_worse(self, margin: float) -> float:
        """Log evidence that the candidate's rate is more than `margin` times the live model's."""
        return self._log_evidence(margin, margin * _BEYOND)

    def log_no_worse(self, margin: float) -> float:
        """Log evidence that the candidate's rate is less than `margin` times the live model's."""
        return self._log_evidence(margin, margin / _BEYOND)

    def log_apart(self) -> float:
        """Log evidence that the ratio is not 1. With every row counted as an event: a sample-ratio mismatch."""
        return self._log_evidence(1.0, _APART)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the ratios that the events do not exclude: the interval holds at every look with 1 - alpha.

        Each end is where one-sided evidence against all that lies beyond it reaches 2 / alpha.
        """
        wanted = math.log(2 / alpha)
        low = _edge(lambda ratio: self.log_worse(ratio) >= wanted, _RATIOS)
        high = _edge(lambda ratio: self.log_no_worse(ratio) >= wanted, _RATIOS[::-1])
        return low, high

    def more_events(self, *, share: float, margin: float, alpha: float, worse: bool) -> float | None:
        """Tell about how many more events would be evidence at `alpha`, should the ratio stay what it is.

        Args:
            share: the candidate's share from now on.
            margin: the ratio to be shown exceeded (`worse`) or kept below.
            alpha: the chance of a false decision.
            worse: which of the two directions.

        Returns:
            The number, 0 when the evidence is there, or None when no number will do at the present ratio.
        """
        ratios = margin * _BEYOND if worse else margin / _BEYOND
        logs = self._logs(margin, ratios)
        wanted = -np.log(alpha)
        if _log_mean_exp(logs) >= wanted:
            return 0.0
        mine = _belongs(share, self.ratio)
        candidate, stable = _gains(np.array([share]), margin, ratios)
        gain = mine * candidate[0] + (1 - mine) * stable[0]
        enough = _log_mean_exp(logs + _AHEAD[:, None] * gain) >= wanted
        return float(_AHEAD[enough.argmax()]) if enough.any() else None

    def more_outcomes(self, *, share: float, margin: float, alpha: float, worse: bool) -> float | None:
        """Tell about how many more rows `more_events` means, at the rate of events seen so far."""
        events = self.more_events(share=share, margin=margin, alpha=alpha, worse=worse)
        seen = self.sum_candidate + self.sum_stable
        rate = (seen + 0.5) / (self.num_candidate + self.num_stable + 1)
        return None if events is None else events / rate

    def _log_evidence(self, null: float, ratios: Array) -> float:
        return float(_log_mean_exp(self._logs(null, ratios)))

    def _logs(self, null: float, ratios: Array) -> Array:
        """Return the log likelihood ratio of each of `ratios` against `null`."""
        if not self.counts:
            return np.zeros(len(ratios))
        candidate, stable = _gains(np.array([row.share for row in self.counts]), null, ratios)
        hits = np.array([(row.candidate_events, row.stable_events) for row in self.counts], dtype=np.float64)
        logs: Array = hits[:, 0] @ candidate + hits[:, 1] @ stable
        return logs


def _edge(excluded: Callable[[float], bool], ratios: Array) -> float:
    """Return the last of `ratios`, taken in order, that is still excluded; the outermost, 0 or inf, if none is."""
    if not excluded(float(ratios[0])):
        return 0.0 if ratios[0] < 1 else math.inf
    inside, outside = 0, len(ratios)  # excluded is true up to some place: bisect
    while outside - inside > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if excluded(float(ratios[middle])) else (inside, middle)
    return float(ratios[inside])


def _belongs(share: Any, ratio: Any) -> Any:
    """Return the chance that an event is the candidate's."""
    return share * ratio / (share * ratio + 1 - share)


def _gains(share: Array, null: float, ratios: Array) -> tuple[Array, Array]:
    """Return what one event of the candidate, and one of the live model, adds to each log: (shares, ratios)."""
    at_null, at_ratio = _belongs(share[:, None], null), _belongs(share[:, None], ratios)
    return np.log(at_ratio / at_null), np.log((1 - at_ratio) / (1 - at_null))


def _log_mean_exp(logs: Array) -> Array:
    """Return the log of the mean of `exp(logs)` over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    out: Array = np.log(np.exp(logs - top).mean(axis=-1)) + top[..., 0]
    return out
