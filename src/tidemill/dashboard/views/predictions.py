"""Predictions: what was asked and answered, newest first, filtered by the address, and each of them close up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tidemill.app import App
from tidemill.clock import from_micros
from tidemill.dashboard.inputs import PIECE_BYTES, brief, shown_inputs, thumbnail, written
from tidemill.dashboard.life import life
from tidemill.dashboard.scores import confidence, score_bars
from tidemill.dashboard.table import Cell, Column, Link, Row, Table
from tidemill.dashboard.truth import Truth, truths
from tidemill.dashboard.view import LIMIT, Action, Asked, Done, Fragment, Page, Posted, View
from tidemill.dashboard.wanted import FALLBACKS, ROLES, YES_OR_NO, Wanted
from tidemill.errors import NotFound
from tidemill.loop.alike import Alike, alike, compared_by
from tidemill.loop.suites import add_logged, told_of
from tidemill.schema import Classes, Image, Tensor
from tidemill.stores.newest import Newest
from tidemill.suites import Cases

_COLUMNS = [
    "request_id", "received_at", "role", "unit", "answered_version", "fallback_reason", "error", "scores", "decision",
    "abstained", "latency_ms",
]  # fmt: skip
_MOST_PREVIEWED = 4
_MOST_CHOICES = 200
_FIRST_PIECE, _MOST_PIECE = 100, 2_000  # rows of a file
_MOST_FEEDBACK = 200


def show(asked: Asked) -> Page:
    """Return the predictions that the address asks for."""
    app = asked.app
    wanted = Wanted.read(asked)
    asked.searcher.start()  # somebody who looks may search next
    found = wanted.find(asked, _read(asked))
    data = {
        "found": _table(asked, found), "choices": _choices(app), "python": _python(app, wanted), "cut": _cut(found),
        "log": app.world.log.complete_until(asked.now), "no_queue": _no_queue(app), "hint": _hint(app),
        "is_more": any(asked.word(name) for name in ("until", "abstained", "fallback", "role", "unit", "id")),
    }  # fmt: skip
    return Page(template="predictions.html", title="Predictions", data=data)


def one(asked: Asked) -> Page:
    """Return one prediction as a page of its own."""
    id_ = str(asked.place["id"])
    return Page(template="prediction.html", title=f"Prediction {id_[-8:]}", data=_close_up(asked, id_))


def row_part(asked: Asked) -> Page:
    """Return one prediction for the drawer."""
    return Page(template="_prediction.html", data=_close_up(asked, asked.word("id")))


def similar_part(asked: Asked) -> Page:
    """Return the examples most similar to a prediction, as they were measured last."""
    app, id_ = asked.app, asked.word("id")
    key = ("predictions.similar", id_, app.world.reservoir.num_labelled(app.name))
    reading = asked.measured.ask(key, partial(_alike, app, id_), fresh_s=600)
    found = None if reading is None else reading.value
    return Page(template="_similar.html", data={"reading": reading, "url": asked.link(), "found": found})


def predictions_table(asked: Asked) -> Table:
    """Return the page of predictions that the address asks for."""
    return _table(asked, Wanted.read(asked).find(asked, _read(asked)))


def predictions_file(asked: Asked) -> Iterator[Table]:
    """Yield the predictions that the address asks for, as few at a time as their inputs are large."""
    left, num, after = asked.limit, _FIRST_PIECE, asked.word("after")
    while left > 0:
        piece = replace(asked, limit=min(num, left), query={**asked.query, "after": after})
        found = Wanted.read(piece).find(piece, _read(piece))
        yield _table(piece, found)
        if found.next is None:
            return
        left, after = left - len(found.rows), str(found.next)
        if len(found.rows):  # a look that met none says nothing of how large they are
            num = max(1, min(_MOST_PIECE, PIECE_BYTES * len(found.rows) // max(int(found.rows.estimated_size()), 1)))


# --- the table


def _read(asked: Asked) -> list[str]:
    """Return the columns to read: a file has no pictures."""
    inputs = asked.app.project.schema.inputs
    unseen = (Image, Tensor) if asked.is_file else (Tensor,)
    return [*_COLUMNS, *(name for name, kind in inputs.items() if not isinstance(kind, unseen))]


def _table(asked: Asked, found: Newest) -> Table:
    project, rows = asked.app.project, found.rows.to_dicts()
    known = truths(asked.app.world.log, asked.app.name, project.output, rows)
    images = [name for name, kind in project.schema.inputs.items() if isinstance(kind, Image)][:1]
    others = [name for name, kind in project.schema.inputs.items() if not isinstance(kind, Image | Tensor)]
    columns = [
        Column(key="at", title="Received", kind="when"),
        Column(key="request", title="Request"),
        *(Column(key=f"input.{name}", title=name, kind="picture") for name in images),
        *(Column(key=f"input.{name}", title=name) for name in others[:_MOST_PREVIEWED]),
        Column(key="decision", title="Decision"),
        Column(key="confidence", title="Score", kind="number", help="of the decision"),
        Column(key="truth", title="Truth", help="what feedback or people said"),
        Column(key="is", title="", kind="pill"),
        Column(key="version", title="Version", help="that answered"),
        *([Column(key="state", title="State", kind="pill")] if asked.is_file or any(map(_state, rows)) else []),
        Column(key="unit", title="Unit", kind="code"),
        Column(key="ms", title="Took, ms", kind="number"),
    ]
    shown = [_row(asked, row, known.get(row["request_id"]), images) for row in rows]
    return Table(
        name="predictions", title="Predictions", columns=columns, rows=shown, picks=True,
        next="" if found.next is None else str(found.next), empty=_empty(asked),
        command="" if asked.query else "tidemill up",
    )  # fmt: skip


def _row(asked: Asked, row: Mapping[str, Any], truth: Truth | None, images: Sequence[str]) -> Row:
    project, id_ = asked.app.project, row["request_id"]
    say, say_briefly = (written, written) if asked.is_file else (brief, partial(brief, most=40))
    inputs: dict[str, Cell] = {}
    for name, kind in project.schema.inputs.items():
        value = row.get(name)
        inputs[f"input.{name}"] = thumbnail(kind, value, name) if name in images else say(value)
    is_ = None if truth is None or row["decision"] is None else "right" if truth.label == row["decision"] else "wrong"
    version = row["answered_version"]
    cells: dict[str, Cell] = {
        "at": from_micros(row["received_at"]),
        "request": Link(_short(id_, asked), f"/predictions/{id_}", f"/predictions/-/row?id={id_}"),
        **inputs,
        "decision": say_briefly(row["decision"]),
        "confidence": confidence(project.output, row["scores"], row["decision"]),
        "truth": None if truth is None else say_briefly(truth.label),
        "is": is_,
        "version": Link(f"v{version}", f"/models/{version}") if version else None,
        "state": _state(row),
        "unit": row["unit"],
        "ms": row["latency_ms"],
    }
    return Row(cells=cells, key=id_, tone="bad" if is_ == "wrong" or row["error"] else "")


def _short(id_: str, asked: Asked) -> str:
    """Return the end of an id, where ids of the same time differ; all of it in a file."""
    return id_ if asked.is_file or len(id_) <= 12 else id_[-8:]


def _state(row: Mapping[str, Any]) -> str | None:
    if row["error"]:
        return "failed"
    return "fallback" if row["fallback_reason"] else "abstained" if row["abstained"] else None


def _empty(asked: Asked) -> str:
    if not asked.query:
        return "The log has no prediction yet: serve the model, and send it a request."
    return "No prediction in the log meets these filters."


def _cut(found: Newest) -> str:
    """Return how far the look went, where it ended before the log."""
    if not found.is_cut or found.next is None:
        return ""
    back_to = f"{from_micros(found.next.received_at):%Y-%m-%d %H:%M:%S}"
    return f"Looked at {found.num_looked:,} rows, back to {back_to}. “Next” looks further back."


# --- close up


def _close_up(asked: Asked, id_: str) -> Mapping[str, Any]:
    app, project, log = asked.app, asked.app.project, asked.app.world.log
    found = log.lookup(app.name, [id_], schema=project.schema).to_dicts()
    if not found:
        raise NotFound(
            f"the log has no prediction {id_[:60]!r}.", "check the id; while no loop runs, new ones wait for it"
        )
    row = found[0]
    shadows = log.lookup(app.name, [id_], role="shadow", schema=project.schema).to_dicts()
    feedback = log.about(app.name, [id_], since=from_micros(row["received_at"])).to_dicts()
    truth = truths(log, app.name, project.output, [row]).get(id_)
    return {
        "row": row, "id": id_, "at": from_micros(row["received_at"]), "inputs": shown_inputs(project.schema, row),
        "bars": score_bars(project.output, row["scores"], row["decision"]), "truth": truth,
        "shadows": _shadows(app, shadows, truth), "feedback": _feedback(feedback), "life": life(app, row, feedback),
        "suites": _suites(app), "no_queue": _no_queue(app), "no_similar": _no_similar(app), "labels": _classes(app),
        "python": f'import tidemill as tm\n\n{_opened(app)}\nrow = app.world.log.lookup(app.name, ["{id_}"], '
        "schema=app.project.schema)",
    }  # fmt: skip


def _shadows(app: App, rows: Sequence[Mapping[str, Any]], truth: Truth | None) -> Table:
    columns = [
        Column(key="version", title="Version"), Column(key="decision", title="Would have said"),
        Column(key="confidence", title="Score", kind="number"), Column(key="is", title="", kind="pill"),
        Column(key="ms", title="Took, ms", kind="number"),
    ]  # fmt: skip
    shown = [
        Row(cells={
            "version": Link(f"version {row['answered_version']}", f"/models/{row['answered_version']}"),
            "decision": brief(row["decision"], 40), "ms": row["latency_ms"],
            "confidence": confidence(app.project.output, row["scores"], row["decision"]),
            "is": None if truth is None else "right" if truth.label == row["decision"] else "wrong",
        })
        for row in rows
    ]  # fmt: skip
    return Table(name="shadows", title="Shadow answers", columns=columns, rows=shown, total=len(shown),
                 empty="No shadow answered this request.")  # fmt: skip


def _feedback(facts: Sequence[Mapping[str, Any]]) -> Table:
    """Return what was said, the newest of very much."""
    columns = [
        Column(key="at", title="Received", kind="when"), Column(key="kind", title="Kind"),
        Column(key="value", title="Value"), Column(key="source", title="Source"), Column(key="trust", title="Trust"),
    ]  # fmt: skip
    rows = [
        Row(cells={"at": from_micros(fact["received_at"]), "kind": fact["kind"], "value": brief(fact["value"], 200),
                   "source": fact["source"], "trust": fact["trust"]})
        for fact in facts[-_MOST_FEEDBACK:]
    ]  # fmt: skip
    return Table(name="feedback", title="Feedback", columns=columns, rows=rows, total=len(facts),
                 empty="Nothing was said about this request yet.")  # fmt: skip


def _alike(app: App, id_: str) -> Table:
    """Return the examples like a request as they are shown: what is kept of them is small."""
    rows = app.world.log.lookup(app.name, [id_], schema=app.project.schema).to_dicts()
    return _alike_table(app, alike(app.world, rows[0], without=id_) if rows else [])


def _alike_table(app: App, found: Sequence[Alike]) -> Table:
    field = compared_by(app.project.schema)
    kind = app.project.schema.inputs[field]
    columns = [
        Column(key="picture", title=field, kind="picture" if isinstance(kind, Image) else "text"),
        Column(key="similarity", title="Similarity", kind="number"), Column(key="label", title="Label"),
        Column(key="decision", title="Was answered"), Column(key="split", title="Split"),
        Column(key="reason", title="Curated as"), Column(key="request", title="Request"),
    ]  # fmt: skip
    rows = [
        Row(cells={
            "picture": thumbnail(kind, one.example.inputs[field], field) or brief(one.example.inputs[field], 120),
            "similarity": round(one.similarity, 4), "label": brief(one.example.label, 40), "split": one.example.split,
            "decision": brief(one.example.decision, 40), "reason": one.example.reason,
            "request": None if one.example.request_id is None
            else Link(one.example.request_id[-8:], f"/predictions/{one.example.request_id}"),
        })
        for one in found
    ]  # fmt: skip
    return Table(name="similar", title=f"Like it by {field}", columns=columns, rows=rows, total=len(rows),
                 empty="There is no example to compare with.", command="tidemill curate CONDITION")  # fmt: skip


# --- what can be chosen, and why something cannot be pressed


def _choices(app: App) -> Mapping[str, Any]:
    versions = [str(model.version) for model in reversed(app.catalog.models(app.name))][:_MOST_CHOICES]
    return {
        "versions": versions, "decisions": _classes(app), "cohorts": list(app.project.cohorts), "roles": ROLES,
        "abstained": YES_OR_NO, "fallback": FALLBACKS,
    }  # fmt: skip


def _hint(app: App) -> str:
    cohort = next(iter(app.project.cohorts.values()), "")
    return f"such as {cohort}" if cohort else "SQL"


def _classes(app: App) -> list[str]:
    return list(app.project.output.names)[:_MOST_CHOICES] if isinstance(app.project.output, Classes) else []


def _suites(app: App) -> list[str]:
    return [suite.name for suite in app.project.suites if isinstance(suite, Cases)]


def _no_queue(app: App) -> str:
    return "" if app.project.strategy.label.queue is not None else "the strategy has no tm.label.Queue()"


def _no_similar(app: App) -> str:
    try:
        compared_by(app.project.schema)
    except Exception as error:
        return str(error)
    return ""


def _opened(app: App) -> str:
    return f'app = tm.App.open("{app.world.project_file}", "{app.world.home.folder}")'


def _python(app: App, wanted: Wanted) -> str:
    where = "\n  AND ".join(wanted.sql)
    query = f"SELECT * FROM predictions\nWHERE {where}\nORDER BY received_at DESC"
    query = query.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')  # a link must not end the text and go on as code
    return f'import tidemill as tm\n\n{_opened(app)}\nfound = app.sql("""\n{query}\n""", limit={LIMIT})'


# --- actions


def send_to_label(posted: Posted) -> Done:
    """Put the ticked requests, or one, into the label queue."""
    ids = posted.all("id")
    if not ids:
        raise NotFound("no request is ticked.", "tick some in the table first")
    num_new, num_known = posted.app.send_to_label(ids, why=f"asked: {posted.reason}")
    again = f", {num_known} again" if num_known else ""
    return Done(said=f"{num_new + num_known} of {len(ids)} wait for a label{again}, before all others.")


def add_to_suite(posted: Posted) -> Done:
    """Make the ticked requests, or one, cases of a suite."""
    ids = posted.all("id")
    if not ids:
        raise NotFound("no request is ticked.", "tick some in the table first")
    label = posted.field("label").strip() if "label" in posted.form else ""
    said = add_logged(
        posted.app.world, posted.field("suite"), ids, label=label or None, note=posted.reason, by=posted.who.name,
        now=posted.now,
    )  # fmt: skip
    words = said[0] if len(said) == 1 else f"{len(said)} cases are in the suite {posted.field('suite')!r}."
    return Done(said=words, noted=told_of(ids))


def _things(posted: Posted) -> str:
    ids = posted.all("id")
    return f"prediction {ids[0]}" if len(ids) == 1 else f"{len(ids)} predictions"


VIEW = View(
    path="/predictions", name="Predictions", group="Look", icon="predictions", show=show, pages={"/{id}": one},
    fragments={"row": Fragment(show=row_part), "similar": Fragment(show=similar_part)},
    tables={"predictions": predictions_table}, files={"predictions": predictions_file},
    searches=frozenset({"where", "cohort"}),
    actions={
        "label": Action(do=send_to_label, verb="send to label", thing=_things),
        "suite": Action(do=add_to_suite, verb="add to suite", thing=_things),
    },
)  # fmt: skip
