"""Which predictions an address asks for: its filters, as the log takes them and as SQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import polars as pl

from tidemill.dashboard.view import Asked
from tidemill.errors import InvalidInput
from tidemill.monitor.cohorts import with_projections
from tidemill.project import Project
from tidemill.schema import Array
from tidemill.stores.conditions import Answer, condition_columns
from tidemill.stores.newest import Newest, Place
from tidemill.stores.searcher import LIMIT_S

FILTERS = ("period", "until", "id", "unit", "version", "decision", "abstained", "fallback", "role", "cohort", "where")
ROLES = ("answer", "shadow")
YES_OR_NO = ("yes", "no")
FALLBACKS = ("yes", "no", "failed")
_YEARS = range(1970, 3000)
_LOOKS_AT = 3_000_000  # rows, where the log's own columns say which are wanted
_LOOKS_AT_INPUTS = 150_000
_LOOKS_AT_PROJECTED = 20_000  # a projection is a function of the user's


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The filters of an address; `conditions` are SQL over tags, inputs and projections, `sql` all of them as SQL."""

    project: Project
    after: datetime | None
    until: datetime
    role: str
    where: pl.Expr
    decision: str
    conditions: tuple[str, ...]
    sql: tuple[str, ...]
    behind: Place | None

    @classmethod
    def read(cls, asked: Asked) -> Wanted:
        """Read the address.

        Raises:
            InvalidInput: a time or a version is none.
            ProjectError: a cohort is unknown, or a condition is not allowed; the message names the part.
        """
        project, until = asked.app.project, _until(asked)
        role, plain = asked.choice("role", ROLES), _plain(asked)
        conditions, decision = _conditions(asked, project), asked.word("decision")
        told = [f"decision = {_quoted(decision)}"] if decision else []
        after = until - asked.period() if asked.word("period") else None
        times = [f"received_at <= TIMESTAMP '{until:%Y-%m-%d %H:%M:%S.%f}'"] if asked.word("until") else []
        times += [f"received_at > TIMESTAMP '{after:%Y-%m-%d %H:%M:%S.%f}'"] if after else []
        return cls(
            project=project, after=after, until=until, role=role,
            where=pl.all_horizontal(pl.lit(value=True), *(expression for expression, _ in plain)), decision=decision,
            conditions=conditions, behind=Place.read(asked.word("after")) if asked.word("after") else None,
            sql=(f"role = '{role}'", *times, *(sql for _, sql in plain), *told, *(f"({one})" for one in conditions)),
        )  # fmt: skip

    def find(self, asked: Asked, columns: Sequence[str]) -> Newest:
        """Return the page of predictions that the address asks for.

        Raises:
            ProjectError: a condition cannot be computed, or takes longer than a search may.
            Unavailable: other searches take all the time there is.
        """
        projected, needed = self._reads()
        ends = time.monotonic() + LIMIT_S

        def meets(rows: pl.DataFrame) -> Array:
            return self._meets(rows, projected, partial(asked.searcher.evaluate, left_s=ends - time.monotonic()))

        most = _LOOKS_AT_PROJECTED if projected else _LOOKS_AT_INPUTS if needed else _LOOKS_AT
        return asked.app.world.log.newest(
            asked.app.name, after=self.after, until=self.until, behind=self.behind, limit=asked.limit, at_most=most,
            role=self.role, where=self.where, meets=meets if needed else None,
            columns=columns, needed=needed, schema=self.project.schema,
        )  # fmt: skip

    def _reads(self) -> tuple[list[str], list[str]]:
        """Return the projections and the columns that must be known of a row to tell whether it is wanted."""
        project = self.project
        names = [*project.inputs, *project.projections]
        read = {name for one in self.conditions for name in condition_columns(one, names)}
        projected = sorted(read & set(project.projections))
        needed = list(project.inputs) if projected else sorted(read)
        return projected, [*needed, *(["decision"] if self.decision else [])]

    def _meets(self, rows: pl.DataFrame, projected: Sequence[str], answer: Answer) -> Array:
        wanted = np.ones(len(rows), dtype=bool)
        if self.decision:
            said = rows["decision"].cast(pl.String) == self.decision
            wanted &= said.fill_null(value=False).to_numpy()
        if self.conditions:
            rows = with_projections(self.project, rows, projected) if projected else rows
            for met in answer({one: one for one in self.conditions}, rows).values():
                wanted &= met
        return wanted


def time_of(text: str, name: str) -> datetime:
    """Read a time of an address, in UTC.

    Raises:
        InvalidInput: it is none, or of no year that the log could be from.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name} is {text[:60]!r}.", "give a time such as 2026-01-31T12:00", name) from None
    if at.year not in _YEARS:  # near the ends of the calendar there is no time before, or after
        raise InvalidInput(f"{name} is {text[:60]!r}.", f"give a year from {_YEARS[0]} to {_YEARS[-1]}", name)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _until(asked: Asked) -> datetime:
    # Until a minute that people have written is until its end.
    text = asked.word("until")
    if not text:
        return asked.now
    return time_of(text, "until") + (timedelta(seconds=60) if len(text) == len("2026-01-31T12:00") else timedelta(0))


def _plain(asked: Asked) -> list[tuple[pl.Expr, str]]:
    """Return what is asked of the log's own columns, as polars and as SQL."""
    found = []
    if unit := asked.word("unit"):
        found.append((pl.col("unit") == unit, f"unit = {_quoted(unit)}"))
    if id_ := asked.word("id"):
        found.append((pl.col("request_id") == id_, f"request_id = {_quoted(id_)}"))
    if asked.word("version"):
        version = asked.number("version", 0)
        found.append((pl.col("answered_version") == version, f"answered_version = {version}"))
    if silent := asked.word("abstained"):
        is_so = asked.choice("abstained", YES_OR_NO) == "yes" and silent == "yes"
        found.append((pl.col("abstained").fill_null(value=False) == is_so, "abstained" if is_so else "NOT abstained"))
    if asked.word("fallback"):
        found.append(_FALLBACKS[asked.choice("fallback", FALLBACKS)])
    return found


_FALLBACKS = {
    "yes": (pl.col("fallback_reason").is_not_null(), "fallback_reason IS NOT NULL"),
    "no": (
        pl.col("fallback_reason").is_null() & pl.col("error").is_null(), "fallback_reason IS NULL AND error IS NULL"
    ),
    "failed": (pl.col("error").is_not_null(), "error IS NOT NULL"),
}  # fmt: skip


def _conditions(asked: Asked, project: Project) -> tuple[str, ...]:
    found = []
    if cohort := asked.word("cohort"):
        if cohort not in project.cohorts:
            known = ", ".join(project.cohorts) or "none"
            raise InvalidInput(f"there is no cohort {cohort[:60]!r}.", f"the cohorts are {known}", "cohort")
        found.append(project.cohorts[cohort])
    if condition := asked.word("where"):
        found.append(condition)
    return tuple(found)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
