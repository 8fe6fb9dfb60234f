"""What a trigger or an alert remembers of looks at drift, and how it says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from tidemill.clock import duration, from_micros, micros
from tidemill.records import Json, Outcome, Scalar
from tidemill.stats.alarm import NUM_SETS
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.strategy.drift_needs import EVERYONE, TRAINING, DriftNeeds
from tidemill.strategy.member import Member
from tidemill.strategy.wording import counted, span

Said = tuple[Outcome, str, dict[str, Scalar]]

_MOST_NAMED = 3


def checked_needs(
    member: Member, *, columns: Sequence[str] | None, alpha: float, window: timedelta, reference: str, min_rows: int,
    cohort: str = EVERYONE,
) -> DriftNeeds:  # fmt: skip
    """Return what a member with these parameters asks for.

    Raises:
        ProjectError: a parameter is out of range.
    """
    least = 1 / (NUM_SETS + 1)
    member.require(columns is None or len(columns) > 0, "columns is empty", "name some, or leave it out for all")
    member.require(
        least <= alpha < 0.5, f"alpha is {alpha!r}", f"give the chance of a false alarm, {least:g} to 0.5, such as 0.01"
    )
    member.require(window.total_seconds() > 0, f"window is {window}", "give a time such as '1d'")
    member.require(min_rows >= 100, f"min_rows is {min_rows!r}", "give at least 100")
    past = None if reference == TRAINING else duration(reference, name=f"{type(member).__name__}.reference")
    member.require(
        past is None or past.total_seconds() > 0, f"reference is {reference!r}", "give 'training', or a time: '30d'"
    )
    named = None if columns is None else tuple(columns)
    return DriftNeeds(columns=named, window=window, past=past, alpha=alpha, min_rows=min_rows, cohort=cohort)


def remembered(state: Json, needs: DriftNeeds, found: Mapping[DriftNeeds, DriftReport], about: Json) -> Json:
    """Return the state with the newest look in it. What was seen is dropped when `about` (a version) is another."""
    known = state if state.get("about") == about else {"about": about, "report": None, "since": None}
    report = found.get(needs)
    if report is None:
        return known
    since = None
    if _is_alarming(report, needs):
        since = known["since"] if known["since"] is not None else micros(report.after)
    return {"about": about, "report": report.to_json(), "since": since}


def said(state: Json, needs: DriftNeeds) -> Said:
    """Say whether the newest window is alarming, what moved in it, how far, and since when."""
    if not state or state["report"] is None:
        return Outcome.UNKNOWN, "no whole window has been looked at yet", {}
    report = DriftReport.from_json(state["report"])
    if report.rank is None:
        return Outcome.UNKNOWN, report.problem, {"rows": report.num_rows, "reference_rows": report.num_reference}
    numbers: dict[str, Scalar] = {
        "rank": report.rank, "alpha": needs.alpha, "rows": report.num_rows, "reference_rows": report.num_reference,
        **_effects(report),
    }  # fmt: skip
    among = f"{counted(report.num_rows, 'row')} until {report.until:%Y-%m-%d %H:%M} beside {_reference(needs)}"
    if not _is_alarming(report, needs):
        return Outcome.QUIET, f"nothing unusual: rank {report.rank:.3g} of {among}", numbers
    moved = report.moved or report.columns[:1]
    shown = ", ".join(_shown(column) for column in moved[:_MOST_NAMED])
    more = f" and {len(moved) - _MOST_NAMED} more" if len(moved) > _MOST_NAMED else ""
    numbers |= {"moved": ", ".join(column.name for column in moved), "since": f"{from_micros(state['since']):%FT%RZ}"}
    if report.examples:
        numbers["examples"] = " ".join(report.examples)
    told = f"{shown}{more} moved, since {from_micros(state['since']):%Y-%m-%d %H:%M}"
    return Outcome.FIRE, f"{told}: rank {report.rank:.3g} of {among}", numbers


def _is_alarming(report: DriftReport, needs: DriftNeeds) -> bool:
    return report.rank is not None and report.rank <= needs.alpha


def _reference(needs: DriftNeeds) -> str:
    return "the training data" if needs.past is None else f"the {span(needs.past.total_seconds())} before"


def _shown(column: ColumnDrift) -> str:
    effect = column.effect
    return column.name if effect is None else f"{column.name} ({column.statistic} {effect:.2g})"


def _effects(report: DriftReport) -> dict[str, Scalar]:
    shown = report.moved or report.columns[:1]
    return {f"{column.name}.{name}": effect for column in shown for name, effect in column.effects.items()}
