"""The backtests: what was replayed, how good each strategy would have been, what it would have cost, and why."""

from __future__ import annotations

import polars as pl

from tidemill.dashboard.backtest_shown import compared, curves, event_line, fronts, means
from tidemill.dashboard.markdown import markdown
from tidemill.dashboard.opening import opening
from tidemill.dashboard.shown import number as written
from tidemill.dashboard.table import Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Asked, File, Fragment, Page, View
from tidemill.errors import NotFound
from tidemill.records import Json
from tidemill.stores.backtests import Backtests, KeptBacktest

_COMMAND = "tidemill backtest log --strategy preset:never --strategy preset:every_window"
_TONES = {"better": "good", "worse": "bad", "inconclusive": "unsure"}
_MOST_EVENTS = 15
_COSTS = ("retrainings", "promotions", "rejections", "rollbacks", "labels")


def show(asked: Asked) -> Page:
    """Return the list of backtests."""
    data = {"backtests": backtests_table(asked), "python": _python(asked, "all()")}
    return Page(template="backtests.html", title="Backtests", data=data)


def backtests_table(asked: Asked) -> Table:
    """Return the kept backtests, newest first."""
    found = [one for one in _kept(asked).all() if one.project == asked.app.name]
    first = asked.number("after", 0)
    columns = [
        Column(key="at", title="Made", kind="when"), Column(key="id", title="Backtest"),
        Column(key="source", title="Stream", kind="code"), Column(key="strategies", title="Strategies"),
        Column(key="best", title="Best", help="by what users would have got"),
        Column(key="value", title="It gets", kind="number"), Column(key="change", title="Change", kind="pill"),
        Column(key="coverage", title="Judged", kind="share", help="below 80 % every verdict is inconclusive"),
    ]  # fmt: skip
    return Table(
        name="backtests", title="Backtests", columns=columns, total=len(found),
        rows=[_row(one) for one in found[first : first + asked.limit]],
        next=str(first + asked.limit) if first + asked.limit < len(found) else "",
        empty="No backtest is kept here. One replays your own log, or a file, under several strategies:",
        command=_COMMAND,
    )  # fmt: skip


def _row(one: KeptBacktest) -> Row:
    best = _best(one)
    return Row(key=one.id, cells={
        "at": one.made_at, "id": Link(one.id, f"/backtests/{one.id}"), "source": one.source,
        "strategies": ", ".join(one.names), "best": best.get("strategy"), "value": best.get(one.metric),
        "change": None if one.card is None else one.card["verdict"], "coverage": one.coverage,
    })  # fmt: skip


def _best(one: KeptBacktest) -> Json:
    known = [row for row in means(one) if row.get(one.metric) is not None]
    return (max if one.higher_is_better else min)(known, key=lambda row: row[one.metric], default={})


def _kept(asked: Asked) -> Backtests:
    return Backtests(asked.app.world.home)


def _found(asked: Asked) -> KeptBacktest:
    """Return the backtest that is asked for."""
    one = _kept(asked).one(str(asked.place.get("id") or asked.word("id")))
    if one.project != asked.app.name:
        raise NotFound(f"backtest {one.id} is of another project.", "choose one of the list")
    return one


# --- one backtest


def one(asked: Asked) -> Page:
    """Return one backtest."""
    found = _found(asked)
    a, b = _pair(asked, found)
    data = {
        "one": found, "best": _best(found),
        "change": None if found.card_markdown is None else markdown(found.card_markdown),
        "summary": summary_table(asked), "comparisons": comparisons_table(asked), "events": events_table(asked),
        "curves": curves(found), "fronts": fronts(found), "line": event_line(found, _of_first_seed(found)),
        "a": a, "b": b, "pair": compared(found, a, b) if a != b else None, "facts": _facts(found.setting),
        "spent": _facts(found.spent), "python": _python(asked, f"one({found.id!r})"),
        "steps": found.events["step"].unique(maintain_order=True).to_list(),
    }  # fmt: skip
    return Page(template="backtest.html", title=f"Backtest of {found.source}", data=data)


def _pair(asked: Asked, found: KeptBacktest) -> tuple[str, str]:
    """Return the two strategies to compare: those asked for, else what the first comparison is of."""
    usual = found.comparisons[0] if found.comparisons else {"a": found.names[0], "b": found.names[-1]}
    return asked.word("a") or usual["a"], asked.word("b") or usual["b"]


def _facts(values: Json) -> list[tuple[str, str]]:
    return [(name, written(value) if isinstance(value, float) else str(value)) for name, value in values.items()
            if value is not None and not isinstance(value, dict | list)]  # fmt: skip


def summary_table(asked: Asked) -> Table:
    """Return a row for each strategy: means of its seeds."""
    found = _found(asked)
    columns = [
        Column(key="strategy", title="Strategy"), Column(key="quality", title=found.metric, kind="number"),
        Column(key="worst_window", title="Worst window", kind="number"),
        Column(key="worst_cohort", title="Worst cohort", kind="number"),
        *(Column(key=name, title=name.capitalize(), kind="number") for name in _COSTS),
        Column(key="train_cpu_s", title="CPU s", kind="number", help="of training"),
        Column(key="regret", title="Regret", kind="number", help="how much better, a request, hindsight would be"),
        Column(key="seeds", title="Seeds", kind="count"),
    ]  # fmt: skip
    best = _best(found).get("strategy")
    rows = [
        Row(key=row["strategy"], tone="good" if row["strategy"] == best else "",
            cells={**{c.key: row.get(c.key) for c in columns}, "quality": row.get(found.metric)})
        for row in means(found)
    ]  # fmt: skip
    return Table(name="summary", title="Summary", columns=columns, rows=rows, total=len(rows))


def comparisons_table(asked: Asked) -> Table:
    """Return how each strategy compares with the first, or with the old one, request by request."""
    found = _found(asked)
    rows = [
        Row(tone=_TONES.get(one["verdict"], ""), cells={
            "b": Link(one["b"], asked.link(f"/backtests/{found.id}", a=one["a"], b=one["b"]) + "#compare"),
            "a": one["a"],
            "gain": Interval(one["gain"], one["low"], one["high"], one["num"]), "verdict": one["verdict"],
            "reason": one["reason"],
        })
        for one in found.comparisons
    ]  # fmt: skip
    columns = [
        Column(key="b", title="Strategy"), Column(key="a", title="Against"),
        Column(key="gain", title="Gain", kind="interval", help="a request; above 0 is better, n are requests"),
        Column(key="verdict", title="Verdict", kind="pill"), Column(key="reason", title="Why"),
    ]  # fmt: skip
    return Table(name="comparisons", title="Compared", columns=columns, rows=rows, total=len(rows),
                 empty="There is one strategy only: give --strategy once more to compare.")  # fmt: skip


def _of_first_seed(found: KeptBacktest) -> pl.DataFrame:
    seed = found.summary[0]["seed"] if found.summary else None
    return found.events.filter(pl.col("seed").eq_missing(pl.lit(seed, dtype=found.events["seed"].dtype)))


def events_table(asked: Asked) -> Table:
    """Return every verdict with its reason, as they came."""
    found = _found(asked)
    events = found.events
    for name in ("strategy", "step", "outcome"):
        if wanted := asked.word(name):
            events = events.filter(pl.col(name) == wanted)
    first, limit = asked.number("after", 0), _MOST_EVENTS if asked.place else asked.limit
    columns = [
        Column(key="at", title="When in the stream"), Column(key="strategy", title="Strategy"),
        Column(key="seed", title="Seed"), Column(key="cycle", title="Cycle"), Column(key="step", title="Step"),
        Column(key="outcome", title="Verdict", kind="pill"), Column(key="by", title="By", kind="code"),
        Column(key="reason", title="Why"),
    ]  # fmt: skip
    rows = [Row(cells={**row, "at": f"{row['at']:%Y-%m-%d %H:%M:%S}"})
            for row in events[first : first + limit].iter_rows(named=True)]  # fmt: skip
    return Table(
        name="events", title="Every verdict", columns=columns, rows=rows, total=len(events),
        next=str(first + limit) if first + limit < len(events) else "", empty="No verdict like that.",
    )  # fmt: skip


def windows_table(asked: Asked) -> Table:
    """Return every window of every run, for a file."""
    windows = _found(asked).windows
    plain = [name for name, kind in windows.schema.items() if not kind.is_nested()]
    rows = [Row(cells=row) for row in windows.select(plain).iter_rows(named=True)]
    columns = [Column(key=name, title=name) for name in plain]
    return Table(name="windows", title="Windows", columns=columns, rows=rows, total=len(rows))


def file(asked: Asked) -> File:
    """Return the report of a backtest as one HTML file that needs nothing else."""
    found = _found(asked)
    try:
        body = found.report.read_bytes()
    except OSError as error:
        raise NotFound(f"the report of backtest {found.id} cannot be read.", "run the backtest again") from error
    return File(body=body, media="text/html; charset=utf-8", name=f"{asked.app.name}-backtest-{found.id}.html")


def _python(asked: Asked, call: str) -> str:
    line = f"found = Backtests(app.world.home).{call}\nprint(found)"
    return opening(asked.app, line, after="from tidemill.stores.backtests import Backtests")


VIEW = View(
    path="/backtests", name="Backtests", group="Models", icon="backtests", show=show, pages={"/{id:str}": one},
    fragments={"file": Fragment(show=file)},
    tables={"backtests": backtests_table, "summary": summary_table, "comparisons": comparisons_table,
            "events": events_table, "windows": windows_table},
)  # fmt: skip
