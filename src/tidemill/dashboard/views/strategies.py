"""The strategies: each version with what was expected of it and what it brought, and what changed between two."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from markupsafe import Markup

from tidemill.app import App
from tidemill.dashboard import svg
from tidemill.dashboard.measured import Reading
from tidemill.dashboard.opening import opening
from tidemill.dashboard.shown import number as written
from tidemill.dashboard.table import Cell, Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Asked, Fragment, Page, View, known
from tidemill.errors import NotFound
from tidemill.monitor.gains import Gain, Release, foretold, releases
from tidemill.monitor.ledger import StrategyPeriod, ledger
from tidemill.stores.catalog import StrategyVersion
from tidemill.strategy.diff import diff_json, stages_text

_FRESH_S = 120.0
_SPANS = ("retrainings", "labels", "train_cpu_s")


class Brought(NamedTuple):
    """What the strategies brought: by version, and by release."""

    periods: list[StrategyPeriod]
    released: list[Release]


def show(asked: Asked) -> Page:
    """Return the list of versions, and what changed with the newest."""
    found = _versions(asked.app)
    data = {"versions": versions_table(asked), "num": len(found), "python": opening(asked.app, _EACH)}
    return Page(template="strategies.html", title="Strategies", data=data)


def _versions(app: App) -> list[StrategyVersion]:
    return sorted(app.catalog.strategies(app.name), key=lambda version: version.number)


def versions_table(asked: Asked) -> Table:
    """Return the versions, the one in force first, each with how much it changed."""
    app = asked.app
    by_time = app.catalog.strategies(app.name)
    numbered = {version.number: version for version in by_time}
    models = [model.strategy for model in app.catalog.models(app.name)]
    first = asked.number("after", 0)
    shown = by_time[::-1][first : first + asked.limit]
    rows = []
    for version in shown:
        before = numbered.get(version.number - 1)
        lines = [] if before is None else diff_json(before.body, version.body)
        cells: dict[str, Cell] = {
            "number": Link(f"strategy {version.number}", f"/strategy/{version.number}"),
            "state": "live" if version is by_time[-1] else None, "since": version.since,
            "changed": "the first" if before is None else _cut(lines), "models": models.count(version.digest),
            "digest": version.digest,
        }  # fmt: skip
        rows.append(Row(key=str(version.number), cells=cells))
    return Table(
        name="versions", title="Versions", total=len(by_time), rows=rows,
        next=str(first + len(shown)) if first + len(shown) < len(by_time) else "",
        columns=[
            Column(key="number", title="Version"), Column(key="state", title="", kind="pill"),
            Column(key="since", title="In force since", kind="when"), Column(key="changed", title="What changed"),
            Column(key="models", title="Models", kind="count"), Column(key="digest", title="Digest", kind="code"),
        ],
        empty="No strategy yet.", command="tidemill check",
    )  # fmt: skip


def _cut(lines: Sequence[str]) -> str:
    if not lines:
        return "nothing"
    more = f"; and {len(lines) - 2} more" if len(lines) > 2 else ""
    return "; ".join(lines[:2]) + more


# --- what they brought


def brought_part(asked: Asked) -> Page:
    """Return quality, retrainings and labels of each version, expected beside true, as measured last."""
    reading = _reading(asked)
    data: dict[str, Any] = {"reading": reading, "url": asked.link()}
    if reading is not None and reading.value is not None:
        found = reading.value
        data |= {
            "ledger": ledger_table(asked.app, found.periods), "releases": releases_table(found.released),
            "foretold": foretold(found.released),
        }  # fmt: skip
    return Page(template="_strategy_ledger.html", data=data)


def _reading(asked: Asked) -> Reading[Brought] | None:
    return asked.measured.ask(("strategies.brought",), partial(measure, asked.app), fresh_s=_FRESH_S)


def measure(app: App) -> Brought:
    """Read what each version brought."""
    w, now = app.world, app.clock.now()
    periods = ledger(w.project, catalog=w.catalog, journal=w.journal, log=w.log, reservoir=w.reservoir, now=now)
    return Brought(periods, releases(w.project, catalog=w.catalog, journal=w.journal, log=w.log, now=now))


def ledger_csv(asked: Asked) -> Table:
    """Return the ledger for CSV, as it was measured last.

    Raises:
        BeingMeasured: it never was yet.
    """
    return ledger_table(asked.app, known(_reading(asked)).periods)


def releases_csv(asked: Asked) -> Table:
    """Return the releases for CSV, as they were measured last.

    Raises:
        BeingMeasured: they never were yet.
    """
    return releases_table(known(_reading(asked)).released)


def ledger_table(app: App, periods: Sequence[StrategyPeriod]) -> Table:
    """Return what each version brought, and what a backtest had foretold of it where there was one."""
    is_expected = any(period.expected for period in periods)
    columns = [
        Column(key="number", title="Version"),
        Column(key="since", title="From", kind="when"),
        Column(key="until", title="Until", kind="when"),
        Column(key="quality", title=app.project.metrics[0].name.replace("_", " "), kind="interval"),
        *(
            [
                Column(key="expected", title="Expected", kind="interval"),
                Column(key="true", title="Came true", kind="pill"),
            ]
            if is_expected
            else []
        ),
        Column(key="cycles", title="Cycles", kind="count"),
        Column(key="promoted", title="Promoted", kind="count"),
        Column(key="labels", title="Labels", kind="count"),
        *([Column(key="foretold", title="Expected meanwhile")] if is_expected else []),
    ]
    rows = [_period(period) for period in reversed(periods)]
    return Table(name="ledger", title="What they brought", columns=columns, rows=rows, total=len(rows))


def _period(one: StrategyPeriod) -> Row:
    value, low, high = one.expected["quality"] if one.expected else (None, None, None)
    cells: dict[str, Cell] = {
        "number": Link(f"strategy {one.number}", f"/strategy/{one.number}"), "since": one.since, "until": one.until,
        "quality": Interval(one.quality, num=one.num_judged), "expected": Interval(value, low, high),
        "true": came_true(one), "cycles": one.num_cycles, "promoted": one.num_promoted, "labels": one.num_labels,
        "foretold": _meanwhile(one),
    }  # fmt: skip
    return Row(key=str(one.number), cells=cells)


def came_true(one: StrategyPeriod) -> str | None:
    """Say whether the quality that users got lies where the backtest had it, None where either lacks."""
    if not one.expected or one.quality is None or one.expected["quality"][0] is None:
        return None
    _, low, high = one.expected["quality"]
    return "pass" if low <= one.quality <= high else "fail"


def _meanwhile(one: StrategyPeriod) -> str | None:
    if not one.expected:
        return None
    days = (one.until - one.since) / timedelta(days=1)
    told = [(name, one.expected[name]) for name in _SPANS if one.expected.get(name)]
    return "; ".join(
        f"{name.replace('_', ' ')} {written(low * days)} to {written(high * days)}" for name, (_, low, high) in told
    )


def releases_table(released: Sequence[Release]) -> Table:
    """Return what each release promised on test rows beside what traffic showed."""
    gains = [gain for one in released for gain in (one.offline, one.online) if gain is not None]
    reach = max((abs(v) for gain in gains for v in (gain.low, gain.high)), default=1.0)
    rows = [
        Row(cells={
            "cycle": Link(str(one.cycle), f"/rollout?cycle={one.cycle}"),
            "version": Link(str(one.version), f"/models/{one.version}"), "closed": one.closed_at,
            "outcome": one.outcome, "offline": _gain(one.offline), "online": _gain(one.online),
            "picture": _both(one, reach), "agrees": {True: "pass", False: "fail", None: None}[one.agrees],
        })
        for one in reversed(released)
    ]  # fmt: skip
    columns = [
        Column(key="cycle", title="Cycle"),
        Column(key="version", title="Version"),
        Column(key="closed", title="Ended", kind="when"),
        Column(key="outcome", title="Outcome", kind="pill"),
        Column(key="offline", title="Offline gain", kind="interval"),
        Column(key="online", title="Online gain", kind="interval"),
        Column(key="picture", title="Both", help="Offline above, online below; the line is no gain", kind="picture"),
        Column(key="agrees", title="Borne out", kind="pill"),
    ]
    return Table(
        name="releases",
        title="Releases",
        columns=columns,
        rows=rows,
        total=len(rows),
        empty="No candidate has met traffic yet.",
        command="tidemill retrain --reason 'first retraining'",
    )


def _gain(gain: Gain | None) -> Interval | None:
    return None if gain is None else Interval(gain.value, gain.low, gain.high, gain.n)


def _both(one: Release, reach: float) -> Markup | None:
    drawn = [
        svg.interval(
            g.value, g.low, g.high, least=-reach, most=reach, mark=0.0, width=110, height=14, title=f"{name} gain"
        )
        for name, g in (("offline", one.offline), ("online", one.online))
        if g is not None
    ]
    return Markup("<br>").join(drawn) if drawn else None


# --- one version, and the diff of two


def one(asked: Asked) -> Page:
    """Return one version: its stages, and what changed from another."""
    app, wanted = asked.app, int(asked.place["number"])
    found = {version.number: version for version in _versions(app)}
    version = _known(found, wanted)
    other = _known(found, asked.number("with", max((n for n in found if n < wanted), default=wanted)))
    data = {
        "version": version, "other": other, "numbers": [n for n in reversed(found) if n != wanted],
        "is_live": version.digest == app.catalog.strategies(app.name)[-1].digest,
        "stages": stages_text(version.body), "changes": changes(asked),
        "models": [m.version for m in app.catalog.models(app.name) if m.strategy == version.digest][::-1][:200],
        "cycles": [c for c in app.journal.cycles(app.name) if c.strategy == version.digest][::-1][:50],
        "python": opening(app, f"version = app.catalog.strategies(app.name)[{wanted - 1}]\nprint(version.body)"),
    }  # fmt: skip
    return Page(template="strategy.html", title=f"Strategy {wanted}", data=data)


def _known(found: dict[int, StrategyVersion], wanted: int) -> StrategyVersion:
    if wanted not in found:
        raise NotFound(
            f"there is no strategy version {wanted}.", f"versions are {', '.join(map(str, found)) or 'none yet'}"
        )
    return found[wanted]


def changes(asked: Asked) -> Table:
    """Return what changed from `?with=` (by default the version before) to `number`, a line each."""
    found = {version.number: version for version in _versions(asked.app)}
    wanted = asked.number("number", int(asked.place.get("number", 0)))
    version = _known(found, wanted)
    other = _known(found, asked.number("with", max((n for n in found if n < wanted), default=wanted)))
    lines = diff_json(other.body, version.body)
    rows = [Row(cells={"what": what or line, "change": change}) for line in lines
            for what, _, change in [line.partition(": ")]]  # fmt: skip
    columns = [Column(key="what", title="What", kind="code"), Column(key="change", title="Change")]
    empty = "It is the first version." if other is version else "The two do the same."
    return Table(name="changes", title="Changes", columns=columns, rows=rows, total=len(rows), empty=empty)


_EACH = "for version in app.catalog.strategies(app.name):\n    print(version.number, version.since)"


VIEW = View(
    path="/strategy", name="Strategies", group="Models", icon="strategy", show=show, pages={"/{number:int}": one},
    fragments={"brought": Fragment(show=brought_part)},
    tables={"versions": versions_table, "ledger": ledger_csv, "releases": releases_csv, "changes": changes},
)  # fmt: skip
