"""Batch predictions that the loop makes by itself, once in each slot of time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tidemill.clock import duration, from_micros, micros
from tidemill.errors import ProjectError

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A declared batch prediction; make it with `tm.batch`."""

    name: str
    source: str
    to: str
    every: timedelta
    stale_after: timedelta
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    refused: str | None = None
    keep: tuple[str, ...] | None = None
    jobs: int | None = None

    @property
    def alert(self) -> str:
        """What the alert is called that its output is stale."""
        return f"batch.{self.name}"

    def slot(self, now: datetime) -> int:
        """Return the number of the slot that `now` is in: how often `every` has passed since 1970."""
        return micros(now) // (self.every // _MICROSECOND)

    def begins(self, slot: int) -> datetime:
        """Return when a slot begins, UTC."""
        return from_micros(slot * (self.every // _MICROSECOND))

    def place(self, text: str, slot: int) -> str:
        """Return a place with the beginning of a slot in it, where it says `{slot}` or, say, `{slot:%Y-%m-%d}`."""
        return text.format(slot=self.begins(slot)) if "{slot" in text else text


def batch(
    name: str,
    *,
    source: str,
    to: str,
    every: timedelta | str,
    stale_after: timedelta | str | None = None,
    on_bad_row: Literal["refuse", "skip"] = "refuse",
    refused: str | None = None,
    keep: Sequence[str] | None = None,
    jobs: int | None = None,
) -> Batch:
    """Declare a batch prediction that the loop makes in every slot of `every` (a day begins at midnight, UTC).

    `source` and `to` are as `tidemill batch` takes them; relative paths start beside the project file, and
    `{slot:%Y-%m-%d}` in them stands for the slot's beginning. The output replaces the one before. When no output is
    younger than `stale_after` (by default two slots), an alert is opened, which the next output closes.

    ```python
    tm.batch("nightly", source="customers.parquet", to="sqlite:///crm.db#scores", every="1d", stale_after="2d")
    ```

    Raises:
        ProjectError: the name is no plain one, a duration or place makes no sense, or `on_bad_row` is unknown.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProjectError(f"batch name {name!r} is no plain name of at most 40 characters.", "such as 'nightly'")
    period = duration(every, name=f"batch {name!r}: every")
    if period < timedelta(seconds=1):
        raise ProjectError(f"batch {name!r} is due every {period}.", "give at least '1s', such as '1d'")
    if on_bad_row not in ("refuse", "skip"):
        raise ProjectError(f"batch {name!r}: on_bad_row is {on_bad_row!r}.", "give 'refuse' or 'skip'")
    stale = 2 * period if stale_after is None else duration(stale_after, name=f"batch {name!r}: stale_after")
    if stale < period:
        raise ProjectError(f"batch {name!r} goes stale after {stale}, before the next is due.", "give at least `every`")
    made = Batch(
        name=name, source=source, to=to, every=period, stale_after=stale, on_bad_row=on_bad_row, refused=refused,
        keep=None if keep is None else tuple(keep), jobs=jobs,
    )  # fmt: skip
    for text in (source, to, refused):
        _check_place(made, text)
    return made


def _check_place(made: Batch, text: str | None) -> None:
    try:
        if text is not None:
            made.place(text, 0)
    except (KeyError, IndexError, ValueError) as error:
        raise ProjectError(
            f"batch {made.name!r} reads or writes {text!r}: {error!r}.", "write {slot} or, say, {slot:%Y-%m-%d}"
        ) from error
