"""Two strategies on the same stream: how much better one is, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stats.paired_blocks import mean_span


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better `b` is than `a`, a request, from `low` to `high`; `verdict` is better, worse or inconclusive."""

    a: str
    b: str
    gain: float
    low: float
    high: float
    num: int
    verdict: str
    reason: str

    def to_json(self) -> Json:
        """Return it as JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.b} against {self.a}: {self.verdict}, {self.reason}"


def compare_runs(
    a: str, b: str, of_a: Array, of_b: Array, *, alpha: float, coverage: float, least: float
) -> Comparison:
    """Compare the quality of each request under both, float (S, N) by seed, higher being better.

    Requests are paired, and so are seeds where both have as many.
    """
    if len(of_a) != len(of_b):
        of_a, of_b = np.nanmean(of_a, axis=0, keepdims=True), np.nanmean(of_b, axis=0, keepdims=True)
    span = mean_span(of_b - of_a, rng=np.random.default_rng(0), alpha=alpha)
    reason = f"{span.value:+.4f} ({span.low:+.4f} to {span.high:+.4f}) over {span.num:,} requests"
    verdict = "better" if span.low > 0 else "worse" if span.high < 0 else "inconclusive"
    if coverage < least:
        verdict = "inconclusive"
        reason += f"; only {coverage:.0%} of the stream can be judged, {least:.0%} are wanted"
    return Comparison(
        a=a, b=b, gain=span.value, low=span.low, high=span.high, num=span.num, verdict=verdict, reason=reason
    )
