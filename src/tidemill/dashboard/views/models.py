"""The models: every version with what became of it, where it came from, and how it stands beside the live one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tidemill.app import App
from tidemill.dashboard import svg
from tidemill.dashboard.opening import opening
from tidemill.dashboard.table import Cell as Shown
from tidemill.dashboard.table import Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, View
from tidemill.errors import InvalidInput, NotFound, StoreError
from tidemill.records import DatasetVersion, Json, ModelVersion, Route
from tidemill.review.report import Report
from tidemill.strategy.evidence import ALL, Cell
from tidemill.training.told import log_of, progress_of

_STATUSES = ("ready", "live", "candidate", "retired", "rejected", "rolled back")
_COLUMNS = (
    Column(key="version", title="Version", sort=True),
    Column(key="status", title="Status", kind="pill"),
    Column(key="at", title="Made", kind="when", sort=True),
    Column(key="artefact", title="Artefact", kind="pill"),
    Column(key="deleted_at", title="Deleted", kind="when"),
    Column(key="quality", title="First metric", kind="interval"),
    Column(key="gain", title="Gain over live", kind="interval"),
    Column(key="dataset", title="Dataset"),
    Column(key="strategy", title="Strategy"),
    Column(key="parent", title="Tuned from", help="The version it was fine-tuned from"),
    Column(key="cycle", title="Cycle"),
    Column(key="report", title="Report"),
)


def show(asked: Asked) -> Page:
    """Return the list of versions."""
    app = asked.app
    made = app.catalog.models(app.name)
    route = app.catalog.route(app.name)
    data = {
        "models": models_table(asked), "statuses": _STATUSES, "route": route, "num": len(made),
        "fates": svg.history([_TONES.get(m.status, "") for m in made[-40:]], title="What became of the last versions"),
        "python": opening(app, 'for model in app.catalog.models(app.name):\n    print(model.version, model.status)'),
    }  # fmt: skip
    return Page(template="models.html", title="Models", data=data)


_TONES = {"live": "good", "retired": "good", "rejected": "bad", "rolled back": "bad", "ready": "unsure"}


def models_table(asked: Asked) -> Table:
    """Return a page of versions; reports are read only for those that are shown."""
    app, route = asked.app, asked.app.catalog.route(asked.app.name)
    wanted, sort = asked.word("status"), asked.choice("sort", ("-version", "version", "-at", "at"))
    found = [m for m in app.catalog.models(app.name) if not wanted or status(m, route) == wanted]
    found = found if sort in ("version", "at") else found[::-1]
    first = asked.number("after", 0)
    shown = found[first : first + asked.limit]
    datasets = {d.digest: d for d in app.world.datasets.all(app.name)}
    strategies = {s.digest: s.number for s in app.catalog.strategies(app.name)}
    reported = app.catalog.reported(app.name)
    more = first + len(shown) < len(found)
    return Table(
        name="models", title="Versions", total=len(found), sort=sort,
        columns=_columns(shown),
        rows=[_row(app, m, route, datasets, strategies, m.version in reported) for m in shown],
        next=str(first + len(shown)) if more else "", previous=str(first - asked.limit) if first > asked.limit else "",
        empty="No version yet." if not wanted else f"No version is {wanted}.", command="tidemill train data.parquet",
    )  # fmt: skip


def _columns(shown: Sequence[ModelVersion]) -> list[Column]:
    """Return the columns, without those that have nothing to say of what is shown."""
    empty = set() if any(m.parent is not None for m in shown) else {"parent"}
    empty |= set() if any(m.retired_at is not None for m in shown) else {"artefact", "deleted_at"}
    return [column for column in _COLUMNS if column.key not in empty]


def status(model: ModelVersion, route: Route | None) -> str:
    """Return what a version is now: the route knows the candidate."""
    under_way = route is not None and model.version in (route.candidate, *route.shadows)
    return "candidate" if under_way else model.status


def _row(
    app: App, model: ModelVersion, route: Route | None, datasets: Mapping[str, DatasetVersion],
    strategies: Mapping[str, int], has_report: bool,
) -> Row:  # fmt: skip
    report = Report.from_json(app.catalog.report(app.name, model.version)) if has_report else None
    cell = None if report is None else first_cell(report)
    dataset = datasets.get(model.dataset or "")
    number = strategies.get(model.strategy)
    cells: dict[str, Shown] = {
        "version": Link(f"version {model.version}", f"/models/{model.version}"), "status": status(model, route),
        "at": model.created_at, "artefact": None if model.retired_at is None else "artefact deleted",
        "deleted_at": model.retired_at,
        "quality": None if cell is None else Interval(cell.candidate, cell.candidate_low, cell.candidate_high, cell.n),
        "gain": None if cell is None or cell.gain is None else Interval(cell.gain, cell.low, cell.high),
        "dataset": None if dataset is None else Link(str(dataset.number), f"/datasets/{dataset.number}"),
        "strategy": None if number is None else Link(str(number), f"/strategy/{number}"),
        "parent": None if model.parent is None else Link(str(model.parent), f"/models/{model.parent}"),
        "cycle": None if model.cycle is None else Link(str(model.cycle), f"/rollout?cycle={model.cycle}"),
        "report": Link("report", f"/report/{model.version}") if has_report else None,
    }  # fmt: skip
    return Row(key=str(model.version), cells=cells)


def first_cell(report: Report) -> Cell | None:
    """Return the first metric over all test rows."""
    return next((c for c in report.cells if c.cohort == ALL and not c.period and not c.suite), None)


# --- one version


def one(asked: Asked) -> Page:
    """Return one version: lineage, training, candidate against champion, and where it answered."""
    app, version = asked.app, int(asked.place["version"])
    model, route = _found(app, version), app.catalog.route(app.name)
    run = app.catalog.run(app.name, model.run)
    body = app.catalog.report(app.name, version)
    report = None if body is None else Report.from_json(body)
    strategies = {s.digest: s.number for s in app.catalog.strategies(app.name)}
    datasets = {d.digest: d for d in app.world.datasets.all(app.name)}
    data = {
        "model": model, "status": status(model, route), "route": route, "run": run, "report": report,
        "cell": None if report is None else first_cell(report),
        "dataset": datasets.get(model.dataset or ""), "strategy": strategies.get(model.strategy),
        "children": [m.version for m in app.catalog.models(app.name) if m.parent == version],
        "compared": compared(asked), "roles": roles(asked), "because": _because(app, model, route),
        "deleted": _deleted(app, model),
        "trained": _trained(run.body) if run is not None else {},
        "python": opening(app, _python(model)),
    }  # fmt: skip
    return Page(template="model.html", title=f"Version {version}", data=data)


def _python(model: ModelVersion) -> str:
    """Return how to read the same in Python, and to load it where it is still there."""
    read = f"model = app.catalog.model(app.name, {model.version})"
    return read if model.retired_at is not None else f"{read}\nloaded = app.world.load(model.artefact)"


def _found(app: App, version: int) -> ModelVersion:
    try:
        return app.catalog.model(app.name, version)
    except StoreError as error:
        raise NotFound(error.message, "choose one of the list") from error


def _trained(body: Json) -> dict[str, Any]:
    """Return what is worth showing of a training: who trained on what, the code, and the environment."""
    code, where = body.get("code") or {}, body.get("environment") or {}
    params = body.get("params") or {}
    return {
        "trainer": params.get("trainer", ""),
        "params": _flat(params),
        "num_rows": body.get("num_rows"),
        "seed": body.get("seed"),
        "seconds": body.get("seconds"),
        "format": body.get("format", ""),
        "notes": body.get("notes", ""),
        "error": body.get("error", ""),
        "metrics": body.get("metrics") or {},
        "commit": code.get("commit"),
        "changed": code.get("changed"),
        "sources": code.get("sources", ""),
        "file": str(code.get("file", "")).rpartition("/")[2],
        "python": where.get("python", ""),
        "platform": where.get("platform", ""),
        "packages": where.get("packages") or {},
        "smoke": body.get("smoke") or [],
    }


def _flat(value: Json, name: str = "") -> list[tuple[str, str]]:
    """Return parameters as lines of name and value."""
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flat(inner, f"{name}.{key}" if name else key)]
    return [] if value is None else [(name, str(value))]


def compared(asked: Asked) -> Table:
    """Return candidate against champion: every metric and cohort of the report, side by side."""
    version = asked.number("version", int(asked.place.get("version", 0)))
    body = asked.app.catalog.report(asked.app.name, version)
    report = None if body is None else Report.from_json(body)
    cells = [] if report is None else [c for c in report.cells if not c.period and not c.suite]
    return Table(
        name="compared",
        title="Candidate against champion",
        total=len(cells),
        columns=[
            Column(key="metric", title="Metric"),
            Column(key="cohort", title="Cohort"),
            Column(key="live", title="Champion", kind="number"),
            Column(key="candidate", title="This version", kind="interval"),
            Column(
                key="gain", title="Gain", kind="interval", help="Above 0 is better, whichever way the metric points"
            ),
            Column(key="picture", title="", kind="picture"),
            Column(key="verdict", title="Verdict", kind="pill"),
        ],
        rows=[_compared(c, _reach(cells)) for c in cells],
        empty="No report on this version: the first version of a project has none to stand beside.",
    )


def _reach(cells: list[Cell]) -> float:
    ends = [abs(v) for c in cells for v in (c.gain, c.low, c.high) if v is not None]
    return max(ends, default=1.0) or 1.0


def _compared(cell: Cell, reach: float) -> Row:
    tone = {"pass": "good", "fail": "bad"}.get(cell.outcome, "")
    drawn: Markup | None = None
    if cell.gain is not None:
        drawn = svg.interval(cell.gain, cell.low, cell.high, least=-reach, most=reach, mark=0.0, tone=tone,
                             title=f"Gain in {cell.metric} on {cell.cohort}")  # fmt: skip
    return Row(
        tone=tone if tone == "bad" else "",
        cells={
            "metric": cell.metric, "cohort": cell.cohort, "live": cell.live,
            "candidate": Interval(cell.candidate, cell.candidate_low, cell.candidate_high, cell.n),
            "gain": None if cell.gain is None else Interval(cell.gain, cell.low, cell.high), "picture": drawn,
            "verdict": cell.outcome or None,
        },
    )  # fmt: skip


def roles(asked: Asked) -> Table:
    """Return what the route had a version for, and since when: the history of its alias."""
    version = asked.number("version", int(asked.place.get("version", 0)))
    rows, before = list[Row](), ""
    for change in asked.app.catalog.history(asked.app.name):
        role = role_of(change.route, version)
        if role != before:
            rows.append(Row(cells={"at": change.at, "role": role or "none", "by": change.by, "reason": change.reason}))
        before = role
    return Table(
        name="roles", title="What it answered", total=len(rows), rows=rows[::-1],
        columns=[Column(key="at", title="Since", kind="when"), Column(key="role", title="It was"),
                 Column(key="by", title="By"), Column(key="reason", title="Why")],
        empty="It has never been in traffic.", command=f"tidemill promote {version} --reason 'why'",
    )  # fmt: skip


def role_of(route: Route, version: int) -> str:
    """Return what a route has a version for, "" where for nothing."""
    if route.stable == version:
        return "live"
    if route.candidate == version:
        return f"candidate at {route.share:.0%}"
    if version in route.shadows:
        return "shadow"
    return "fallback" if route.fallback == version else ""


def training_part(asked: Asked) -> Page:
    """Return how the training went: its progress, curves of what it reported, and the end of its log."""
    app = asked.app
    model = _found(app, asked.number("version", 0))
    folder = app.world.workdir(model.run)
    told = progress_of(folder)
    names = dict.fromkeys(name for one in told for name in one.numbers)
    curves = [(name, [one.numbers.get(name) for one in told]) for name in names]
    return Page(template="_training.html", data={"told": told, "curves": curves, "log": log_of(folder)})


# --- what can be done


def _because(app: App, model: ModelVersion, route: Route | None) -> str:
    """Return why a version cannot be released, "" where it can."""
    if route is not None and route.stable == model.version:
        return f"version {model.version} is live already"
    if model.retired_at is not None:
        return _deleted(app, model)
    if app.schemas.brought_by(model.version) is not None:
        return "it reads other inputs than are in force: release it at once"
    cycle = app.journal.cycle(app.name)
    if cycle is None:
        return ""
    same = cycle.candidate == model.version
    return "it is under way already: see the rollout" if same else f"cycle {cycle.number} is under way"


def _deleted(app: App, model: ModelVersion) -> str:
    """Return why an artefact is not there, "" where it is."""
    if model.retired_at is None:
        return ""
    keep = app.project.keep_versions
    return f"its artefact was deleted on {model.retired_at:%Y-%m-%d}" + (
        "" if keep is None else f": keep_versions is {keep}"
    )


def promote(posted: Posted) -> Done:
    """Ask the loop to release a version under the guards."""
    app, version = posted.app, posted.whole("version")
    app.catalog.artefact(app.name, version)
    because = _because(app, app.catalog.model(app.name, version), app.catalog.route(app.name))
    if because:
        raise InvalidInput(
            f"version {version} cannot be released: {because}.", "wait for the cycle to end, or reject it"
        )
    app.ask("promote", by=posted.who.name, version=version, reason=posted.reason)
    return Done(said=f"Asked: the loop takes version {version} into traffic step by step.", goto="/rollout")


VIEW = View(
    path="/models",
    name="Models",
    group="Models",
    icon="models",
    show=show,
    pages={"/{version:int}": one},
    fragments={"training": Fragment(show=training_part)},
    tables={"models": models_table, "compared": compared, "roles": roles},
    actions={
        "promote": Action(do=promote, verb="promote", thing=lambda p: f"version {p.field('version')}", audited=False)
    },
)
