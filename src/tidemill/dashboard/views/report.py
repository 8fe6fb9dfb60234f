"""The report on a version: what it holds, with the plots of the shared file, and the rows it fails on, as they are."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.app import App
from tidemill.dashboard.inputs import Room, ShownInput, shown_inputs
from tidemill.dashboard.opening import opening
from tidemill.dashboard.table import Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Asked, File, Fragment, Page, View
from tidemill.errors import NotFound
from tidemill.records import Example
from tidemill.review.failures import FailureGroup
from tidemill.review.render.page import page
from tidemill.review.render.plots import plots
from tidemill.review.render.sections import sections
from tidemill.review.render.summary import decision
from tidemill.review.report import Report

_MOST_VERSIONS = 200


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A test row that the candidate gets wrong: its label, and its inputs as people see them."""

    id: str
    label: str
    inputs: list[ShownInput]


def show(asked: Asked) -> Page:
    """Return the newest report, or an empty page where there is none yet."""
    reported = asked.app.catalog.reported(asked.app.name)
    if not reported:
        return Page(template="report.html", title="Report", data={"report": None, "versions": [], "version": 0})
    return _page(asked, max(reported), list(reported))


def one(asked: Asked) -> Page:
    """Return the report on one version."""
    return _page(asked, int(asked.place["version"]), list(asked.app.catalog.reported(asked.app.name)))


def _page(asked: Asked, version: int, versions: list[int]) -> Page:
    report = _report(asked.app, version)
    shown, whole = sections(report), decision(report)
    data = {
        "report": report,
        "version": version,
        "versions": versions[::-1][:_MOST_VERSIONS],
        "first": shown[0],
        "others": shown[1:],
        "plots": plots(report),
        "outcome": "" if whole is None else str(whole.outcome),
        "cells": cells(asked, version=version),
        "python": opening(
            asked.app, f"report = Report.from_json(app.catalog.report(app.name, {version}))",
            after="from tidemill.review.report import Report",
        ),
    }  # fmt: skip
    return Page(template="report.html", title=f"Report on version {version}", data=data)


def _report(app: App, version: int) -> Report:
    body = app.catalog.report(app.name, version)
    if body is None:
        known = ", ".join(map(str, app.catalog.reported(app.name))) or "none yet"
        raise NotFound(f"there is no report on version {version}.", f"reports are on versions {known}")
    return Report.from_json(body)


def failing_part(asked: Asked) -> Page:
    """Return the groups of failures with their examples as they are."""
    report = _report(asked.app, asked.number("version", 0))
    room = Room()
    groups = [(group, _failed(asked.app, group, room)) for group in report.failures]
    return Page(template="_failing.html", data={"groups": groups, "plot": plots(report).get("failures")})


def _failed(app: App, group: FailureGroup, room: Room) -> list[Failed]:
    """Return the examples of a group that the reservoir still has."""
    kept = [example for id_ in group.ids for example in _found(app, id_)]
    return [
        Failed(id=e.id, label="unknown" if e.label is None else str(e.label),
               inputs=shown_inputs(app.project.schema, e.inputs, room))
        for e in kept
    ]  # fmt: skip


def _found(app: App, id_: str) -> list[Example]:
    try:
        return app.world.examples([id_])
    except NotFound:  # dropped since
        return []


def file(asked: Asked) -> File:
    """Return the report as one HTML file that needs nothing else."""
    version = asked.number("version", 0)
    report = _report(asked.app, version)
    name = f"{asked.app.name}-report-{version}.html"
    return File(body=page(report, project=asked.app.name).encode(), media="text/html; charset=utf-8", name=name)


def cells(asked: Asked, *, version: int = 0) -> Table:
    """Return every number of the report, for CSV: metric by cohort and period."""
    report = _report(asked.app, version or asked.number("version", 0))
    columns = [
        Column(key="metric", title="Metric"),
        Column(key="cohort", title="Cohort"),
        Column(key="period", title="Period"),
        Column(key="live", title="Live", kind="number"),
        Column(key="candidate", title="Candidate", kind="interval"),
        Column(key="gain", title="Gain", kind="interval"),
        Column(key="outcome", title="Verdict", kind="pill"),
        Column(key="reason", title="Why"),
    ]
    rows = [
        Row(cells={
            "metric": c.metric, "cohort": c.cohort, "period": c.period, "live": c.live,
            "candidate": Interval(c.candidate, c.candidate_low, c.candidate_high, c.n),
            "gain": Interval(c.gain, c.low, c.high), "outcome": c.outcome, "reason": c.reason,
        })
        for c in report.cells
    ]  # fmt: skip
    return Table(name="cells", title="All numbers", columns=columns, rows=rows, total=len(rows))


def reports(asked: Asked) -> Table:
    """Return which versions have a report."""
    found = asked.app.catalog.reported(asked.app.name)
    rows = [Row(cells={"version": Link(f"version {v}", f"/report/{v}"), "at": at}) for v, at in reversed(found.items())]
    columns = [Column(key="version", title="Version"), Column(key="at", title="Made", kind="when")]
    return Table(name="reports", title="Reports", columns=columns, rows=rows, total=len(rows))


VIEW = View(
    path="/report", name="Report", group="Models", icon="report", show=show, pages={"/{version:int}": one},
    fragments={"failing": Fragment(show=failing_part), "file": Fragment(show=file)},
    tables={"cells": cells, "reports": reports},
)  # fmt: skip
