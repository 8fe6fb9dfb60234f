"""Drift: each feature now beside its reference, the most unusual first, with how far it moved and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from tidemill.app import App
from tidemill.clock import duration
from tidemill.dashboard import svg
from tidemill.dashboard.measured import Reading
from tidemill.dashboard.table import Cell, Column, Row, Table
from tidemill.dashboard.view import Asked, Fragment, Page, View, known
from tidemill.loop.drift import training_rows
from tidemill.monitor.drift import Training
from tidemill.monitor.shapes import Shape, shapes
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.log import Profile

REFERENCES = (
    ("training", "the training data"), ("1h", "the hour before"), ("1d", "the day before"),
    ("7d", "the 7 days before"), ("30d", "the 30 days before"),
)  # fmt: skip
WINDOWS = ("1m", "10m", "1h", "6h", "1d", "7d", "30d")
_NUM_BEFORE = 6
_MIN_ROWS = 100
_EFFECTS = {
    "ks": "largest difference of the distribution functions, 0 to 1",
    "wasserstein": "how far values moved on average, in standard deviations of the reference",
    "psi": "population stability index",
    "js": "Jensen and Shannon's distance, 0 to 1",
    "share": "largest change of one word's share",
    "auc": "how well a classifier tells the two apart, 0.5 is not at all",
    "missing": "change of the share of missing values",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """A window beside its reference, with the shapes of its columns."""

    report: DriftReport
    shapes: Mapping[str, Shape]
    needs: DriftNeeds


def show(asked: Asked) -> Page:
    """Return the view; what is heavy in it comes later."""
    needs = _needs(asked)
    data = {"needs": needs, "references": REFERENCES, "windows": _windows(asked), "python": _python(asked.app, needs),
            "reference": _reference(asked)}  # fmt: skip
    return Page(template="drift.html", title="Drift", data=data)


def look_part(asked: Asked) -> Page:
    """Return the features, as they were compared last."""
    reading, needs = _reading(asked), _needs(asked)
    data: dict[str, Any] = {"reading": reading, "url": asked.link(), "needs": needs, "effects": _EFFECTS,
                            "reference": dict(REFERENCES)[_reference(asked)],
                            "ways": _ways(asked)}  # fmt: skip
    if reading is not None and reading.value is not None:
        before, is_dated = _before(asked)
        data |= {
            "features": [_feature(column, reading.value, before) for column in reading.value.report.columns],
            "is_dated": is_dated, "found": reading.value.report,
            "rows": features_table(asked),
        }  # fmt: skip
    return Page(template="_drift.html", data=data)


def features_table(asked: Asked) -> Table:
    """Return the features as rows, the most unusual first, as they were measured last.

    Raises:
        BeingMeasured: they never were yet.
    """
    found = known(_reading(asked))
    columns = [
        Column(key="feature", title="Feature"), Column(key="is", title="", kind="pill"),
        Column(key="unusual", title="Unusual", kind="number", help="minus the logarithm of how rare it is by chance"),
        Column(key="statistic", title="By"),
        *(Column(key=name, title=name, kind="number", help=told) for name, told in _EFFECTS.items()),
    ]  # fmt: skip
    rows = [_row(column) for column in found.report.columns]
    return Table(name="features", title="Features", columns=columns, rows=rows, total=len(rows),
                 empty=found.report.problem or "Nothing to compare.", command="tidemill up")  # fmt: skip


def _row(column: ColumnDrift) -> Row:
    cells: dict[str, Cell] = {
        "feature": column.name, "is": "moved" if column.moved else "as usual", "unusual": round(column.unusual, 3),
        "statistic": column.statistic or None, **{name: column.effects.get(name) for name in _EFFECTS},
    }  # fmt: skip
    return Row(cells=cells, tone="bad" if column.moved else "")


# --- what is measured


def measure(app: App, needs: DriftNeeds) -> Look:
    """Compare the window that ends now with its reference.

    Raises:
        NotFound: no version answers yet.
    """
    training, until = _training(app), app.world.log.complete_until(app.clock.now())
    report = _look(app, needs, until, training)
    known = {} if report.problem else _shapes(app, training, needs, until)
    return Look(report=report, shapes=known, needs=needs)


def measure_before(app: App, needs: DriftNeeds, back: int) -> DriftReport:
    """Compare the window that ended `back` windows ago."""
    until = app.world.log.complete_until(app.clock.now()) - back * needs.window
    return _look(app, needs, until, _training(app))


def _look(app: App, needs: DriftNeeds, until: datetime, training: Training) -> DriftReport:
    return app.drift(
        period=needs.window, past=needs.past, until=until, alpha=needs.alpha, min_rows=needs.min_rows, training=training
    )


def _shapes(app: App, training: Training, needs: DriftNeeds, until: datetime) -> Mapping[str, Shape]:
    """Return the shapes; of what devices profiled there are no rows to draw."""
    if isinstance(app.project.strategy.log, Profile):
        return {}
    return shapes(app.project, app.world.log, training, needs, until)


def _training(app: App) -> Training:
    return cache(partial(training_rows, app.world, app.route().stable))


def _reading(asked: Asked) -> Reading[Look] | None:
    needs = _needs(asked)
    return asked.measured.ask(("drift.look", needs), partial(measure, asked.app, needs), fresh_s=120)


def _before(asked: Asked) -> tuple[list[DriftReport], bool]:
    """Return the looks at the windows before, the newest first, and whether that is all.

    They are taken one after the other, so that other measures come in between; one with too few rows is the last.
    """
    needs, reports = _needs(asked), list[DriftReport]()
    for back in range(1, _NUM_BEFORE + 1):
        ask = partial(measure_before, asked.app, needs, back)
        reading = asked.measured.ask(("drift.before", needs, back), ask, fresh_s=3600)
        if reading is None:
            return reports, False
        if reading.value is None or reading.value.rank is None:
            break
        reports.append(reading.value)
    return reports, True


# --- what is shown


def _feature(column: ColumnDrift, found: Look, before: Sequence[DriftReport]) -> dict[str, Any]:
    shape = found.shapes.get(column.name)
    picture = None if shape is None else svg.histograms(
        shape.names, shape.reference, shape.now, title=f"{column.name}: reference and now", height=120
    )  # fmt: skip
    past = [_moved(report, column.name) for report in before]
    tones = ["" if moved is None else "bad" if moved else "good" for moved in reversed(past)]
    return {
        "column": column, "picture": picture, "missing": (0.0, 0.0) if shape is None else shape.missing,
        "since": _moved_since(column, found, before, past), "tones": [*tones, "bad" if column.moved else "good"],
    }  # fmt: skip


def _moved(report: DriftReport, name: str) -> bool | None:
    """Tell whether a column moved in a window, None where there were too few rows."""
    if report.rank is None:
        return None
    return any(column.name == name for column in report.moved)


def _moved_since(
    column: ColumnDrift, found: Look, before: Sequence[DriftReport], past: Sequence[bool | None]
) -> datetime | None:
    """Return the beginning of the first of the windows in a row, up to now, in which it moved."""
    if not column.moved:
        return None
    since = found.report.after
    for report, moved in zip(before, past, strict=True):
        if not moved:
            break
        since = report.after
    return since


# --- what is asked for


def _needs(asked: Asked) -> DriftNeeds:
    reference, declared = _reference(asked), _declared(asked.app)
    default = "1d" if declared is None else f"{int(declared.window.total_seconds())}s"
    past = None if reference == "training" else duration(reference, name="reference")
    return DriftNeeds(
        columns=None, window=asked.period(default), past=past,
        alpha=0.01 if declared is None else declared.alpha, min_rows=_MIN_ROWS,
    )  # fmt: skip


def _ways(asked: Asked) -> list[tuple[str, str]]:
    """Return other references to compare with, as words and addresses."""
    now = _reference(asked)
    kept = {"period": asked.word("period")}
    return [(text, asked.link("/drift", reference=value, **kept)) for value, text in REFERENCES if value != now]


def _windows(asked: Asked) -> tuple[str, ...]:
    """Return the windows to choose from, with the one that is asked for."""
    now = asked.word("period")
    return WINDOWS if not now or now in WINDOWS else (now, *WINDOWS)


def _reference(asked: Asked) -> str:
    return asked.choice("reference", tuple(value for value, _ in REFERENCES))


def _declared(app: App) -> DriftNeeds | None:
    """Return what the trigger or the first alert on drift looks at."""
    asking = [app.project.strategy.trigger.needs(), *(alert.needs() for alert in app.project.alerts)]
    return next((one for needs in asking if needs is not None for one in needs.drift), None)


def _python(app: App, needs: DriftNeeds) -> str:
    past = "" if needs.past is None else f", past=timedelta(seconds={needs.past.total_seconds():g})"
    call = f"app.drift(period=timedelta(seconds={needs.window.total_seconds():g}){past})"
    opened = f'app = tm.App.open("{app.world.project_file}", "{app.world.home.folder}")'
    return f"from datetime import timedelta\n\nimport tidemill as tm\n\n{opened}\nreport = {call}"


VIEW = View(
    path="/drift", name="Drift", group="Look", icon="drift", show=show, fragments={"look": Fragment(show=look_part)},
    tables={"features": features_table},
)  # fmt: skip
