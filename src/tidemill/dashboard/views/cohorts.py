"""Cohorts: where the model is worst, declared and found, and one of them close up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from tidemill.app import App
from tidemill.dashboard import svg
from tidemill.dashboard.chart import Chart, Series
from tidemill.dashboard.cohort_file import cohort_file
from tidemill.dashboard.deploys import markers
from tidemill.dashboard.inputs import brief, thumbnail
from tidemill.dashboard.measured import Reading
from tidemill.dashboard.span import matured_window
from tidemill.dashboard.table import Cell, Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, File, Fragment, Page, Posted, View, known
from tidemill.errors import ProjectError
from tidemill.monitor.cohort_status import CohortStatus, cohort_status
from tidemill.monitor.history import history
from tidemill.monitor.outcomes import Window
from tidemill.monitor.quality import ALL, Quality
from tidemill.monitor.slices import judged_frame, slice_metric, worst
from tidemill.records import Trust
from tidemill.schema import Image
from tidemill.stats.metrics import Metric
from tidemill.stores.conditions import Answer

_NUM_PARTS, _MOST_FOUND, _FEW = 12, 8, 30
_CHANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A cohort, declared or found: `gap` is how much worse it is than all, `p` how rare by chance (of one found)."""

    name: str
    condition: str
    is_declared: bool
    quality: Quality
    gap: float | None
    trend: Sequence[float | None]
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slices:
    """All slices of a window, the worst first, beside the metric of everyone."""

    metric: str
    everyone: Quality
    slices: Sequence[Slice]


@dataclass(frozen=True, kw_only=True)
class CloseUp:
    """A cohort close up, over the newest `num` requests with a known outcome; pictures by request id."""

    status: CohortStatus
    num: int
    pictures: Mapping[str, Markup]


def show(asked: Asked) -> Page:
    """Return the view; what is heavy in it comes later."""
    data = {"metrics": _metrics(asked.app), "python": _python(asked, "app.worst({metric}period={period})")}
    return Page(template="cohorts.html", title="Cohorts", data=data)


def slices_part(asked: Asked) -> Page:
    """Return the slices, as they were measured last."""
    reading = _reading(asked)
    data: dict[str, Any] = {"reading": reading, "url": asked.link(), "found": None, "period": asked.period()}
    if reading is not None and reading.value is not None:
        data |= {"found": reading.value, "rows": slices_table(asked)}
    return Page(template="_cohorts.html", data=data)


def slices_table(asked: Asked) -> Table:
    """Return the slices as rows, the worst first, as they were measured last.

    Raises:
        BeingMeasured: they never were yet.
    """
    found = known(_reading(asked))
    columns = [
        Column(key="cohort", title="Cohort"), Column(key="kind", title="Kind"),
        Column(key="quality", title=found.metric, kind="interval"),
        Column(key="picture", title="Beside all", kind="picture", help="the dashed line is everyone"),
        Column(key="gap", title="Worse by", kind="number", help="than everyone; below 0 is better"),
        Column(key="trend", title="Trend", kind="picture"),
        Column(key="p", title="Chance", kind="number", help="corrected for all slices that were looked at"),
        Column(key="requests", title="Requests"),
    ]  # fmt: skip
    bounds = _bounds(found)
    rows = [_row(asked, one, found, bounds) for one in found.slices]
    return Table(
        name="cohorts", title="Cohorts and slices", columns=columns, rows=rows, total=len(rows),
        empty="The project declares no cohort, and no slice stands out." if found.everyone.num else
        "No request of this period has a known outcome yet.", command="tidemill status --worst",
    )  # fmt: skip


def one(asked: Asked) -> Page:
    """Return a cohort close up; what is heavy in it comes later."""
    name = asked.word("name", ALL) or ALL
    data = {
        "name": name, "condition": _condition(asked.app, name), "metrics": _metrics(asked.app),
        "requests": _requests(asked, name), "no_queue": _no_queue(asked.app),
        "python": _python(asked, f"app.cohort_status({name!r}, {{metric}}period={{period}})"),
    }  # fmt: skip
    return Page(template="cohort.html", title=f"Cohort {name}", data=data)


def close_part(asked: Asked) -> Page:
    """Return a cohort close up, as it was measured last."""
    name, reading = asked.word("name", ALL) or ALL, _reading_one(asked)
    data: dict[str, Any] = {"reading": reading, "url": asked.link(), "name": name, "period": asked.period()}
    if reading is not None and reading.value is not None:
        found = reading.value
        data |= {"found": found, "beside": _beside(found.status), "trend": _chart(asked.app, found.status),
                 "worst": _worst(found)}  # fmt: skip
    return Page(template="_cohort.html", data=data)


def file(asked: Asked) -> File:
    """Return a cohort close up as one HTML file, as it was measured last.

    Raises:
        BeingMeasured: it never was yet.
    """
    reading = _reading_one(asked)
    found = known(reading)
    body = cohort_file(
        found.status, found.pictures, project=asked.app.name, at=asked.now if reading is None else reading.at,
        num=found.num, period=asked.word("period") or "1d",
    )  # fmt: skip
    return File(body=body.encode(), media="text/html; charset=utf-8", name=f"{asked.app.name}-cohort.html")


# --- what is measured


def _reading_one(asked: Asked) -> Reading[CloseUp] | None:
    name = asked.word("name", ALL) or ALL
    ask = partial(measure_one, asked.app, name, _metric(asked), asked.period(), asked.searcher.evaluate)
    return asked.measured.ask(("cohorts.one", name, _metric(asked), asked.period()), ask, fresh_s=120)


def measure(app: App, name: str | None, period: timedelta) -> Slices:
    """Return the declared cohorts over all requests of a period, and the slices found in the newest of them.

    Raises:
        ProjectError: there is no such metric, or no single request has it.
    """
    project, log, window = app.project, app.world.log, matured_window(app, period)
    metric = slice_metric(project, name)
    past = history(log, project, window, num_parts=_NUM_PARTS)
    of = {q.cohort: q for q in past.whole if q.metric == metric.name}
    everyone = of[ALL]
    declared = [
        Slice(
            name=cohort, condition=condition, is_declared=True, quality=of[cohort],
            gap=_gap(metric, of[cohort].value, everyone.value),
            trend=[None if q is None else q.value for q in past.line(metric.name, cohort)],
        )
        for cohort, condition in project.cohorts.items()
    ]  # fmt: skip
    slices = [*declared, *_found(app, metric, window, everyone)]
    slices.sort(key=lambda one: (one.quality.num < _FEW, -(one.gap if one.gap is not None else -np.inf)))
    return Slices(metric=metric.name, everyone=everyone, slices=slices)


def _found(app: App, metric: Metric, window: Window, everyone: Quality) -> list[Slice]:
    """Return the slices that a search finds, but for the declared ones."""
    project = app.project
    frame = judged_frame(app.world.log, project, window, metric, trust=Trust.CROWD)
    rng = np.random.default_rng(app.world.seed("worst", metric.name))
    found = [one for one in worst(project, frame, metric, rng) if one.cohort is None and one.p < 1.0][:_MOST_FOUND]
    slices = []
    for one in found:
        status = cohort_status(project, frame, one.condition, window, metric=metric.name)
        quality = next(q for q in status.quality if q.metric == metric.name)
        trend = [point.quality.value for point in status.trend]
        slices.append(Slice(
            name=one.condition, condition=one.condition, is_declared=False, quality=quality, trend=trend, p=one.p,
            gap=_gap(metric, quality.value, everyone.value),
        ))  # fmt: skip
    return slices


def measure_one(app: App, name: str, metric_name: str | None, period: timedelta, answer: Answer) -> CloseUp:
    """Return a cohort close up over the newest requests of a period.

    Raises:
        ProjectError: it is no cohort and no condition, or there is no such metric.
    """
    project, window = app.project, matured_window(app, period)
    metric = slice_metric(project, metric_name)
    frame = judged_frame(app.world.log, project, window, metric, trust=Trust.CROWD)
    status = cohort_status(project, frame, name, window, metric=metric.name, answer=answer)
    return CloseUp(status=status, num=len(frame), pictures=_pictures(app, [w.request_id for w in status.worst]))


def _pictures(app: App, ids: Sequence[str]) -> dict[str, Markup]:
    """Return a small picture of each request whose inputs have one."""
    image = next((name for name, kind in app.project.schema.inputs.items() if isinstance(kind, Image)), None)
    if image is None or not ids:
        return {}
    rows = app.world.log.lookup(app.name, ids, columns=["request_id", image], schema=app.project.schema)
    drawn = {id_: thumbnail(app.project.schema.inputs[image], value, image) for id_, value in rows.iter_rows()}
    return {id_: picture for id_, picture in drawn.items() if picture is not None}


def _gap(metric: Metric, value: float | None, everyone: float | None) -> float | None:
    """Return how much worse a value is than everyone's."""
    if value is None or everyone is None:
        return None
    return (everyone - value) if metric.higher_is_better else (value - everyone)


def _reading(asked: Asked) -> Reading[Slices] | None:
    key = ("cohorts.slices", _metric(asked), asked.period())
    return asked.measured.ask(key, partial(measure, asked.app, _metric(asked), asked.period()), fresh_s=60)


# --- what is shown


def _bounds(found: Slices) -> tuple[float, float]:
    ends = [v for one in found.slices for v in (one.quality.value, one.quality.low, one.quality.high) if v is not None]
    ends += [found.everyone.value] if found.everyone.value is not None else []
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _row(asked: Asked, one: Slice, found: Slices, bounds: tuple[float, float]) -> Row:
    quality = one.quality
    tone = _tone(one, found)
    picture = svg.interval(
        quality.value, quality.low, quality.high, least=bounds[0], most=bounds[1], mark=found.everyone.value,
        tone=tone, title=f"{one.name}: {found.metric}",
    )  # fmt: skip
    kept = {"period": asked.word("period"), "metric": asked.word("metric")}
    cells: dict[str, Cell] = {
        "cohort": Link(one.name, asked.link("/cohorts/one", name=one.name, **kept)),
        "kind": _kind(one),
        "quality": Interval(quality.value, quality.low, quality.high, quality.num), "picture": picture,
        "gap": one.gap, "trend": svg.sparkline(one.trend, title=f"{one.name}: {found.metric} over the period"),
        "p": one.p,
        "requests": Link("see", _requests(asked, one.name)),
    }  # fmt: skip
    return Row(cells=cells, tone=tone)


def _kind(one: Slice) -> str:
    """Return where a slice comes from, and how far it is to be believed."""
    kind = f"declared: {one.condition}" if one.is_declared else "found"
    if one.quality.num < _FEW:
        return f"{kind}, few rows"
    return f"{kind}, may be chance" if one.p is not None and one.p > _CHANCE else kind


def _tone(one: Slice, found: Slices) -> str:
    """Return bad where the interval lies wholly on the worse side of everyone's value, and chance is no reason."""
    value, quality = found.everyone.value, one.quality
    if one.p is not None and one.p > _CHANCE:
        return ""
    if value is None or quality.low is None or quality.high is None or quality.num < _FEW:
        return ""
    outside = quality.high < value or quality.low > value
    return "bad" if outside and (one.gap or 0.0) > 0 else ""


def _beside(status: CohortStatus) -> Table:
    columns = [
        Column(key="metric", title="Metric"), Column(key="inside", title="In the cohort", kind="interval"),
        Column(key="elsewhere", title="Elsewhere", kind="interval"),
    ]  # fmt: skip
    others = {q.metric: q for q in status.elsewhere}
    rows = [
        Row(cells={"metric": q.metric, "inside": _interval(q), "elsewhere": _interval(others[q.metric])})
        for q in status.quality
    ]
    return Table(name="beside", title="Beside everyone else", columns=columns, rows=rows, total=len(rows))


def _interval(quality: Quality) -> Interval:
    return Interval(quality.value, quality.low, quality.high, quality.num)


def _chart(app: App, status: CohortStatus) -> Chart:
    points = status.trend
    series = Series(
        name=status.cohort, values=[p.quality.value for p in points], low=[p.quality.low for p in points],
        high=[p.quality.high for p in points],
    )  # fmt: skip
    first, last = points[0].until, points[-1].until
    marks = [mark for mark in markers(app) if first <= mark.at <= last]
    title = points[0].quality.metric
    return Chart(title=title, desc="with its interval", times=[p.until for p in points], series=[series], markers=marks)


def _worst(found: CloseUp) -> Table:
    shown = list(found.status.worst[0].shown)[:5] if found.status.worst else []
    columns = [
        Column(key="request", title="Request"), Column(key="at", title="Received", kind="when"),
        *([Column(key="picture", title="", kind="picture")] if found.pictures else []),
        Column(key="decision", title="Answered"), Column(key="label", title="Truth"),
        Column(key="score", title="Score", kind="number"), *(Column(key=f"shown.{name}", title=name) for name in shown),
    ]  # fmt: skip
    rows = [
        Row(key=w.request_id, cells={
            "request": Link(w.request_id[-8:], f"/predictions/{w.request_id}", f"/predictions/-/row?id={w.request_id}"),
            "at": w.received_at, "picture": found.pictures.get(w.request_id), "decision": brief(w.decision, 40),
            "label": brief(w.label, 40), "score": w.score,
            **{f"shown.{name}": brief(w.shown.get(name)) for name in shown},
        })
        for w in found.status.worst
    ]  # fmt: skip
    return Table(name="worst", title="Its worst requests", columns=columns, rows=rows, total=len(rows),
                 empty="No request of it went wrong in this period.")  # fmt: skip


def _metric(asked: Asked) -> str | None:
    return asked.word("metric") or None


def _metrics(app: App) -> list[str]:
    """Return the metrics that a single request has."""
    names = []
    for metric in app.project.metrics:
        try:
            names.append(slice_metric(app.project, metric.name).name)
        except ProjectError:
            continue
    return names


def _condition(app: App, name: str) -> str:
    return app.project.cohorts.get(name, "")


def _requests(asked: Asked, name: str) -> str:
    """Return the address of a cohort's requests."""
    if name == ALL:
        return "/predictions"
    what = {"cohort": name} if name in asked.app.project.cohorts else {"where": name}
    return asked.link("/predictions", **what)


def _no_queue(app: App) -> str:
    return "" if app.project.strategy.label.queue is not None else "the strategy has no tm.label.Queue()"


def _python(asked: Asked, call: str) -> str:
    app, period = asked.app, f"timedelta(seconds={asked.period().total_seconds():g})"
    metric = f"metric={_metric(asked)!r}, " if _metric(asked) else ""
    call = call.replace("{metric}", metric).replace("{period}", period)
    opened = f'app = tm.App.open("{app.world.project_file}", "{app.world.home.folder}")'
    return f"from datetime import timedelta\n\nimport tidemill as tm\n\n{opened}\nfound = {call}"


# --- actions


def curate(posted: Posted) -> Done:
    """Put requests of a cohort into the label queue, as `tidemill curate` does."""
    name, num = posted.field("name"), posted.whole("num")
    if not 1 <= num <= 10_000:
        raise ProjectError(f"{num} is no number of requests to label.", "give 1 to 10,000")
    wrong = posted.form.get("wrong") is not None
    num_new, num_there = posted.app.curate_past(
        name, num=num, period=posted.period(), wrong=wrong, answer=posted.searcher.evaluate
    )
    return Done(said=f"{num_new} of {num_there} requests wait for a label, before all others.", stay=True)


VIEW = View(
    path="/cohorts", name="Cohorts", group="Look", icon="cohorts", show=show, pages={"/one": one},
    fragments={"slices": Fragment(show=slices_part), "close": Fragment(show=close_part), "file": Fragment(show=file)},
    tables={"cohorts": slices_table},
    actions={"curate": Action(do=curate, verb="curate", thing=lambda posted: f"cohort {posted.field('name')}"[:300])},
)  # fmt: skip
