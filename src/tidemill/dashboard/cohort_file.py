"""A cohort close up as one HTML file that needs nothing else: sections and plots of the report's file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from markupsafe import Markup

from tidemill.dashboard.inputs import brief
from tidemill.dashboard.shown import number
from tidemill.monitor.cohort_status import CohortStatus
from tidemill.monitor.quality import Quality
from tidemill.review.render.page import file
from tidemill.review.render.section import Section, Table
from tidemill.review.render.svg import Scale, dot, line, path, picture, text

_WIDE, _HIGH, _MOST_SHOWN = 720.0, 220.0, 5


def cohort_file(
    status: CohortStatus, pictures: Mapping[str, Markup], *, project: str, at: datetime, num: int, period: str
) -> str:  # fmt: skip
    """Return the file: metrics beside everyone else's, how the first went, and the worst requests."""
    shown = [_first(status, at=at, num=num, period=period), _beside(status), _trend(status), _worst(status)]
    images = Markup("").join(pictures.values())
    drawn = {"trend": _curve(status)} | (
        {"worst": Markup('<div class="pictures">{}</div>').format(images)} if images else {}
    )
    return file(shown, drawn, project=project)


def _first(status: CohortStatus, *, at: datetime, num: int, period: str) -> Section:
    says = [f"{status.num:,} requests of it are among the newest {num:,} with a known outcome, over {period}."]
    says += [f"It is where {status.condition}."] if status.condition and status.condition != status.cohort else []
    metric = status.trend[0].quality.metric if status.trend else status.quality[0].metric
    inside = next(q for q in status.quality if q.metric == metric)
    outside = next(q for q in status.elsewhere if q.metric == metric)
    says.append(f"{metric} is {_figure(inside)} in it, and {_figure(outside)} elsewhere.")
    says.append(f"Measured at {at:%Y-%m-%d %H:%M:%S} UTC; intervals are of 95 %.")
    return Section("summary", f"Cohort {status.cohort}", tuple(says))


def _figure(one: Quality) -> str:
    if one.value is None:
        return "not known"
    span = "" if one.low is None or one.high is None else f" ({number(one.low)} to {number(one.high)})"
    return f"{number(one.value)}{span}"


def _beside(status: CohortStatus) -> Section:
    others = {q.metric: q for q in status.elsewhere}
    rows = [
        (q.metric, _figure(q), f"{q.num:,}", _figure(others[q.metric]), f"{others[q.metric].num:,}")
        for q in status.quality
    ]
    table = Table.of(("metric", "in the cohort", "rows", "elsewhere", "rows elsewhere"), rows, right=(2, 4))
    return Section("beside", "Beside everyone else", (), (table,))


def _trend(status: CohortStatus) -> Section:
    rows = [(f"{p.until:%Y-%m-%d %H:%M:%S}", _figure(p.quality), f"{p.quality.num:,}") for p in status.trend]
    return Section("trend", "Trend", (), (Table.of(("until (UTC)", "value", "rows"), rows, right=(2,)),))


def _curve(status: CohortStatus) -> Markup:
    """Draw the metric of each part of the window with its interval."""
    known = [(at, q.value, q.low, q.high) for at, p in enumerate(status.trend) for q in (p.quality,)]
    ends = [end for _, *values in known for end in values if end is not None]
    if not ends:
        return Markup("")
    up, step = Scale.around(ends, _HIGH - 26, 10), (_WIDE - 90) / max(len(known) - 1, 1)
    drawn = [line(50, up(tick), _WIDE - 10, up(tick)) for tick in up.ticks(4)]
    drawn += [text(44, up(tick) + 4, number(tick), anchor="end", class_="tick") for tick in up.ticks(4)]
    places = [(70 + at * step, value, low, high) for at, value, low, high in known if value is not None]
    drawn += [line(x, up(low), x, up(high), class_="span")
              for x, _, low, high in places if low is not None and high is not None]  # fmt: skip
    drawn.append(path([(x, up(value)) for x, value, _, _ in places], class_="line candidate"))
    drawn += [dot(x, up(value), 4, number(value)) for x, value, _, _ in places]
    for at in sorted({0, len(known) - 1}):
        words = f"{status.trend[at].until:%m-%d %H:%M}"
        drawn.append(text(70 + at * step, _HIGH - 6, words, anchor="middle" if at == 0 else "end", class_="tick"))
    return picture(f"{status.trend[0].quality.metric} of {status.cohort}", *drawn, width=_WIDE, height=_HIGH)


def _worst(status: CohortStatus) -> Section:
    names = list(status.worst[0].shown)[:_MOST_SHOWN] if status.worst else []
    rows = [
        (w.request_id, f"{w.received_at:%Y-%m-%d %H:%M:%S}", str(brief(w.decision, 40)), str(brief(w.label, 40)),
         number(w.score), *(brief(w.shown.get(name)) or "" for name in names))
        for w in status.worst
    ]  # fmt: skip
    table = Table.of(("request", "received (UTC)", "answered", "truth", "score", *names), rows, right=(4,))
    says = ("The most confidently wrong first.",) if rows else ("No request of it went wrong in this period.",)
    return Section("worst", "Its worst requests", says, (table,) if rows else ())
