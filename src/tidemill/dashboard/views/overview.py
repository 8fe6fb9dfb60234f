"""The overview: who answers, where the cycle is, what users got, what is wrong, what waits for people."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from tidemill.app import App
from tidemill.clock import from_micros, micros
from tidemill.dashboard import svg
from tidemill.dashboard.chart import Chart, Marker, Series, Unit
from tidemill.dashboard.deploys import markers
from tidemill.dashboard.standing import standing
from tidemill.dashboard.table import Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, View, known
from tidemill.monitor.history import History, history
from tidemill.monitor.outcomes import Window, horizon
from tidemill.monitor.quality import Quality
from tidemill.project import Project
from tidemill.stats.metrics import Metric
from tidemill.stores.logfiles import LogFiles

_ALL = "all"
_LEAST_SPAN = timedelta(seconds=30)
_FRESH_S = 30.0


def show(asked: Asked) -> Page:
    """Return the overview."""
    return Page(template="overview.html", data={"standing": standing(asked)})


def standing_part(asked: Asked) -> Page:
    """Return the loop, what is wrong and what waits for people."""
    return Page(template="_standing.html", data={"standing": standing(asked)})


def lists_part(asked: Asked) -> Page:
    """Return the newest cycles and verdicts."""
    return Page(template="_lists.html", data={"standing": standing(asked)})


def quality_part(asked: Asked) -> Page:
    """Return the quality of what users got, as it was measured last."""
    reading = asked.measured.ask(_key(asked), partial(measure, asked.app, asked.period()), fresh_s=_FRESH_S)
    found = None if reading is None else reading.value
    data = {
        "reading": reading,
        "url": asked.link(),
        "charts": [] if found is None else charts(asked.app.project, found, markers(asked.app)),
        "cohorts": None if found is None else cohorts(asked.app.project, found),
    }
    return Page(template="_overview_quality.html", data=data)


def cohort_table(asked: Asked) -> Table:
    """Return the metrics by cohort for a file, as they were measured last.

    Raises:
        BeingMeasured: they never were yet.
    """
    reading = asked.measured.ask(_key(asked), partial(measure, asked.app, asked.period()), fresh_s=_FRESH_S)
    return cohorts(asked.app.project, known(reading))


def _key(asked: Asked) -> tuple[str, timedelta]:
    return ("overview.quality", asked.period())


# --- measuring


def measure(app: App, period: timedelta) -> History:
    """Return quality over the last `period`, or since the first request in it."""
    until = app.clock.now() - horizon(app.project)
    after = max(until - period, min(_first_at(app, until - period), until - _LEAST_SPAN))
    return history(app.world.log, app.project, Window(after=after, until=until))


def _first_at(app: App, after: datetime) -> datetime:
    """Return when the first prediction after a time was received, by the files of the log."""
    files = LogFiles(app.db, app.world.home.log).find(app.name, "predictions", first=micros(after))
    return max(after, from_micros(min((file.first_at for file in files), default=micros(after)) - 1))


# --- drawing


def charts(project: Project, found: History, marks: list[Marker]) -> list[Chart]:
    """Return a chart per metric over all requests, the first of the project first."""
    return [_chart(metric, found, marks, is_first=at == 0) for at, metric in enumerate(project.metrics)]


def _chart(metric: Metric, found: History, marks: list[Marker], *, is_first: bool) -> Chart:
    line = found.line(metric.name, _ALL)
    whole = _of(found, metric.name, _ALL)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    one = Series(
        name=metric.name, values=[q.value if q else None for q in line], low=[q.low if q else None for q in line],
        high=[q.high if q else None for q in line],
    )  # fmt: skip
    desc = f"{better}; {whole.num:,} labelled requests" if whole else better
    return Chart(
        title=metric.name, desc=desc, times=found.until, series=[one], markers=marks, unit=_unit(metric),
        height=230 if is_first else 160,
    )  # fmt: skip


def _unit(metric: Metric) -> Unit:
    return "share" if metric.bounds == (0.0, 1.0) else "number"


def cohorts(project: Project, found: History) -> Table:
    """Return the first metric by cohort, the worst first, with how it went."""
    metric = project.metrics[0]
    known = [q for q in found.whole if q.metric == metric.name]
    known.sort(key=lambda q: _badness(q, metric), reverse=True)
    columns = [
        Column(key="cohort", title="Cohort"),
        Column(key="value", title=metric.name, kind="interval", help="with its 95 % interval and labelled requests"),
        Column(key="spark", title="Trend", kind="picture"),
    ]
    return Table(
        name="cohorts", title=f"{metric.name} by cohort, the worst first", columns=columns,
        rows=[_row(q, found, metric) for q in known], empty="No labelled request has matured in this period.",
        command="tidemill label",
    )  # fmt: skip


def _badness(one: Quality, metric: Metric) -> float:
    if one.value is None:
        return float("-inf")
    return -one.value if metric.higher_is_better else one.value


def _row(one: Quality, found: History, metric: Metric) -> Row:
    line = [q.value if q else None for q in found.line(metric.name, one.cohort)]
    name = "all requests" if one.cohort == _ALL else one.cohort
    return Row(
        key=one.cohort,
        cells={
            "cohort": Link(name, f"/cohorts?cohort={one.cohort}"),
            "value": Interval(one.value, one.low, one.high, one.num, _unit(metric)),
            "spark": svg.sparkline(line, title=f"{metric.name} of {name}", width=72),
        },
    )


def _of(found: History, metric: str, cohort: str) -> Quality | None:
    return next((q for q in found.whole if (q.metric, q.cohort) == (metric, cohort)), None)


# --- verbs


def pause(posted: Posted) -> Done:
    """Stop opening cycles and moving candidates on."""
    posted.app.pause(paused=True, by=posted.who.name, reason=posted.reason)
    return Done(said="Paused: no cycle opens and no candidate moves on. Guards still roll back.")


def resume(posted: Posted) -> Done:
    """Go on."""
    posted.app.pause(paused=False, by=posted.who.name, reason=posted.reason)
    return Done(said="The loop goes on.")


def retrain(posted: Posted) -> Done:
    """Ask for a cycle."""
    number = posted.app.ask("retrain", by=posted.who.name, reason=posted.reason)
    return Done(said=f"Asked (command {number}): the loop opens a cycle at its next turn.")


VIEW = View(
    path="/",
    name="Overview",
    group="",
    icon="overview",
    show=show,
    fragments={
        "standing": Fragment(
            show=standing_part, topics=("route", "cycle", "commands", "alerts", "queue", "log", "loop")
        ),
        "lists": Fragment(show=lists_part, topics=("cycle",)),
        "quality": Fragment(show=quality_part, topics=("measured", "log", "route")),
    },
    tables={"cohorts": cohort_table},
    actions={
        "pause": Action(do=pause, verb="pause", audited=False),
        "resume": Action(do=resume, verb="resume", audited=False),
        "retrain": Action(do=retrain, verb="retrain", audited=False),
    },
)
