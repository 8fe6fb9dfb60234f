"""Has the mean of a stream of losses risen above a bar, at some time not known beforehand?

For losses that never lie below `floor`, the product over the rows since some start of

    1 + bet * ((loss - floor) / (bar - floor) - 1),    0 < bet < 1

is an e-process for "the mean is at most the bar", with no upper bound and no distribution assumed; for losses 0 and 1
it is the likelihood ratio of two error rates. It is mixed over bets and over starts, with weights that sum to one: a
change after ten thousand good rows is found nearly as fast as one at once, and the chance of a false alarm is at most
alpha over the whole life of the stream, not per day.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, arXiv 2010.09686
(the bets); Shin, Ramdas & Rinaldo, "E-detectors", arXiv 2203.03532 (sums over starts; there for the time between false
alarms, here with weights that sum to one, so that Ville's inequality bounds their chance).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[Any]

_BETS = np.geomspace(0.01, 0.9, 24)
_SETTLING = 100.0  # rows within which a change at once is still as likely as later
_RECENT = 50  # rows that `recent` looks back on
_BLOCK = 4096  # rows worked on at a time, for memory's sake
_FLOOR_SD = 4.0  # a loss without a known floor is taken to lie above mean - 4 standard deviations


@dataclass(frozen=True)
class Reference:
    """The losses of a first window: how many, their sum and the sum of their squares."""

    num: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, losses: Array) -> Reference:
        """Take in N losses."""
        return Reference(
            self.num + len(losses), self.total + float(losses.sum()), self.squares + float(np.square(losses).sum())
        )

    @property
    def mean(self) -> float:
        """The mean, 0 without losses."""
        return self.total / max(self.num, 1)

    @property
    def sd(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(max(self.squares / max(self.num, 1) - self.mean**2, 0.0)))

    def upper(self, alpha: float, *, binary: bool) -> float:
        """Return what the true mean exceeds with chance `alpha` at most.

        Clopper & Pearson's exact limit where losses are 0 or 1, else the normal one.
        """
        if not binary:
            return self.mean + float(special.ndtri(1 - alpha)) * self.sd / float(np.sqrt(max(self.num, 1)))
        if self.total >= self.num:
            return 1.0
        return float(special.betaincinv(self.total + 1, self.num - self.total, 1 - alpha))

    def rise(self, *, drop: float, alpha: float, binary: bool) -> Rise:
        """Return the test for a mean above this window's by more than `drop`.

        The bar never lies below `upper(alpha)`: a window that was lucky does not make a false alarm. So the chance of
        one, when nothing changed, is at most this alpha and the one that the evidence is compared with, together.
        """
        bar = max(self.mean + drop, self.upper(alpha, binary=binary))
        return Rise(bar=bar, floor=0.0 if binary else self.mean - _FLOOR_SD * self.sd, recent=self.mean)


@dataclass(frozen=True)
class Rise:
    """The evidence, so far, that the mean loss is above `bar`, from some row on.

    `recent` is the mean loss of about the last 50 rows. `logs` holds, per bet, the log of the sum over starts; it is
    empty before the first row.
    """

    bar: float
    floor: float = 0.0
    recent: float = 0.0
    num: int = 0
    total: float = 0.0
    logs: tuple[float, ...] = ()

    def add(self, losses: Array) -> Rise:
        """Take in N losses, in order; any batches give the same evidence, up to rounding."""
        test = self
        for start in range(0, len(losses), _BLOCK):
            test = test._add(np.asarray(losses[start : start + _BLOCK], dtype=np.float64))
        return test

    def log_evidence(self) -> float:
        """Return the log evidence; above `log(1 / alpha)` the mean has risen."""
        waiting = np.log(_not_begun(self.num))
        if not self.logs:
            return float(waiting)
        return float(np.logaddexp(np.logaddexp.reduce(self.logs) - np.log(len(_BETS)), waiting))

    def more_outcomes(self, alpha: float) -> float | None:
        """Tell about how many more rows, of losses 0 and 1, would be evidence if they stayed as the `recent` ones.

        None when the recent rate does not lie above the bar: then no number will do.
        """
        missing = -np.log(alpha) - self.log_evidence()
        if missing <= 0:
            return 0.0
        if not self.bar < self.recent:
            return None
        rate = min(self.recent, 1 - 1e-9)
        growth = rate * np.log(rate / self.bar) + (1 - rate) * np.log((1 - rate) / (1 - self.bar))
        return float(missing / growth)

    def to_json(self) -> dict[str, Any]:
        """Return the test as plain JSON."""
        return {
            "bar": self.bar,
            "floor": self.floor,
            "recent": self.recent,
            "num": self.num,
            "total": self.total,
            "logs": list(self.logs),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rise:
        """Read what `to_json` wrote."""
        return cls(**{**data, "logs": tuple(data["logs"])})

    def again(self) -> Rise:
        """Return the same test with no evidence yet."""
        return Rise(bar=self.bar, floor=self.floor, recent=self.recent)

    def _add(self, losses: Array) -> Rise:
        num = len(losses)
        above = np.maximum(losses - self.floor, 0.0) / (self.bar - self.floor) - 1
        run = np.cumsum(np.log1p(_BETS[:, None] * above), axis=1)  # (bets, rows): the product since the block's start
        at = self.num + np.arange(num + 1)
        weight = np.log(_not_begun(at[:-1]) - _not_begun(at[1:]))  # of a start just before each row
        begun = weight - np.concatenate([np.zeros((len(_BETS), 1)), run[:, :-1]], axis=1)
        if self.logs:
            begun = np.concatenate([np.array(self.logs)[:, None], begun], axis=1)
        return replace(
            self,
            recent=self._recent(losses),
            num=self.num + num,
            total=self.total + float(losses.sum()),
            logs=tuple((np.logaddexp.reduce(begun, axis=1) + run[:, -1]).tolist()),
        )

    def _recent(self, losses: Array) -> float:
        """Return the plain mean of the first rows, from then on one that forgets."""
        first = losses[: max(_RECENT - self.num, 0)]
        recent = (self.total + first.sum()) / (self.num + len(first)) if len(first) else self.recent
        later = losses[len(first) :]
        fade = (1 - 1 / _RECENT) ** np.arange(len(later), -1, -1.0)
        return float(recent * fade[0] + (later * fade[1:]).sum() / _RECENT)


def log_rate_above(bar: float, *, num: int, events: int) -> float:
    """Return the log evidence that a rate is above `bar`, from counts since the first row.

    The same bets as `Rise`, with one start: for counts whose order is not known.
    """
    logs = events * np.log1p(_BETS * (1 / bar - 1)) + (num - events) * np.log1p(-_BETS)
    return float(np.logaddexp.reduce(logs) - np.log(len(_BETS)))


def _not_begun(num: Any) -> Any:
    """Return the weight of all starts after row `num`: 1 at 0, and falling so slowly that late changes are found."""
    return 1 / (1 + np.log1p(num / _SETTLING))
