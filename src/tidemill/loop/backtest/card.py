"""The card of a change of strategy: what it would have brought, what it costs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.loop.backtest.result import BacktestResult
from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stats.paired_blocks import Span, mean_span

_COSTS = {"retrainings": "retrainings", "labels": "labels", "train_cpu_s": "CPU s of training"}
_DAY_US = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure under both strategies, and the difference, each with its interval."""

    name: str
    title: str
    old: Span
    new: Span
    change: Span


@dataclass(frozen=True, kw_only=True)
class Card:
    """A change from strategy `old` to `new`; `verdict` is better or worse only where the interval says so."""

    old: str
    new: str
    verdict: str
    reason: str
    lines: Sequence[Line]
    days: float
    seeds: int
    coverage: float

    @classmethod
    def of(cls, result: BacktestResult, old: str, new: str) -> Card:
        """Compare two strategies of a result.

        Raises:
            NotFound: there is no such strategy.
        """
        compared, sign = result.compare(old, new), 1.0 if result.higher_is_better else -1.0
        ends = (sign * compared.low, sign * compared.high)
        quality = Line(
            name="quality", title=f"{result.metric} that users get", old=result.quality(old), new=result.quality(new),
            change=Span(sign * compared.gain, min(ends), max(ends), compared.num),
        )  # fmt: skip
        costs = [_cost(result, old, new, name, title) for name, title in _COSTS.items()]
        windows = result.of(new)[0].windows
        days = (windows[-1]["end"] - windows[0]["start"]) / _DAY_US
        return cls(
            old=old, new=new, verdict=compared.verdict, reason=compared.reason, lines=[quality, *costs], days=days,
            seeds=len(result.of(new)), coverage=result.coverage,
        )  # fmt: skip

    def to_markdown(self) -> str:
        """Return the card as Markdown."""
        rows = [f"| {line.title} | {_shown(line.old)} | {_shown(line.new)} | {_shown(line.change, sign=True)} |"
                for line in self.lines]  # fmt: skip
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return "\n".join([
            f"## {self.new} against {self.old}: {self.verdict}",
            "",
            f"{self.reason}. {self.days:,.4g} days of the stream, {seeds}; intervals of 95 %, by blocks of time.",
            "",
            f"| | {self.old} | {self.new} | change |",
            "|---|--:|--:|--:|",
            *rows,
            "",
        ])  # fmt: skip

    def to_json(self) -> Json:
        """Return it as JSON."""
        lines = {line.name: {part: list(vars(getattr(line, part)).values()) for part in ("old", "new", "change")}
                 for line in self.lines}  # fmt: skip
        return {**{name: value for name, value in vars(self).items() if name != "lines"}, "lines": lines}

    def prediction(self) -> Json:
        """Return what is expected of the new strategy, as the ledger keeps it: the costs are for a day."""
        days = max(self.days, 1e-9)
        expected: Json = {"against": self.old, "verdict": self.verdict}
        for line in self.lines:
            scale = 1.0 if line.name == "quality" else 1 / days
            span = (line.new.value, line.new.low, line.new.high)
            expected[line.name] = [None if math.isnan(value) else value * scale for value in span]
        return expected


def _cost(result: BacktestResult, old: str, new: str, name: str, title: str) -> Line:
    before, after = _by_window(result, old, name), _by_window(result, new, name)
    if len(before) != len(after):
        before, after = before.mean(axis=0, keepdims=True), after.mean(axis=0, keepdims=True)
    return Line(name=name, title=title, old=_total(before), new=_total(after), change=_total(after - before))


def _by_window(result: BacktestResult, strategy: str, name: str) -> Array:
    return np.array([[window[name] for window in run.windows] for run in result.of(strategy)], dtype=np.float64)


def _total(values: Array) -> Span:
    """Return the total over windows of (S, W), with its interval."""
    span, num = mean_span(values, rng=np.random.default_rng(0)), values.shape[1]
    return Span(span.value * num, span.low * num, span.high * num, num)


def _shown(span: Span, *, sign: bool = False) -> str:
    if math.isnan(span.value):
        return "not known"
    form = "{:+,.4g}" if sign else "{:,.4g}"
    if span.low == span.high:
        return form.format(span.value)
    return f"{form.format(span.value)} ({form.format(span.low)} to {form.format(span.high)})"
