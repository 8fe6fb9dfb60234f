"""The label page: one task at a time, by keys; answers are kept in the browser until the server has taken them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from tidemill.app import App
from tidemill.dashboard.inputs import Room, ShownInput, shown_inputs
from tidemill.dashboard.table import Column, Interval, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, Role, View
from tidemill.errors import InvalidInput
from tidemill.loop.labelling import Agreement, Labeller
from tidemill.records import Example
from tidemill.schema import Classes, Schema, Value

AHEAD = 5
"""How many tasks a browser holds, so that the next is there at once, and a while without a connection does no harm."""
_MOST_AT_ONCE = 200
_MOST_KEY = 80
_TASK_BYTES, _MOST_BYTES = 8 << 20, 24 << 20  # of what a task shows, and of tasks sent at once


class Task(NamedTuple):
    """One task as it is shown."""

    id: str
    inputs: list[ShownInput]
    summary: str
    decision: str
    version: int | None
    said: str


class Figures(NamedTuple):
    """How labellers do: each of them, and how far they agree."""

    labellers: list[Labeller]
    agreement: Agreement


# --- the page


def show(asked: Asked) -> Page:
    """Return the page, without a task: the browser asks for those."""
    queue, output = asked.app.project.strategy.label.queue, asked.app.project.output
    names = output.names if isinstance(output, Classes) else ()
    low, high = (output.low, output.high) if isinstance(output, Value) else (None, None)
    data = {"queue": queue, "names": names, "keys": keys_of(names), "low": low, "high": high, "ahead": AHEAD}
    return Page(template="label.html", title="Label", data=data)


def keys_of(names: Sequence[str]) -> list[str]:
    """Return the key that answers each class: its own digit where all are digits, else 1 to 9 for the first nine."""
    if all(len(name) == 1 and name in "0123456789" for name in names):
        return list(names)
    return [str(place) if place <= 9 else "" for place in range(1, len(names) + 1)]


def tasks(asked: Asked) -> Page:
    """Lend tasks to who asks and return them; those that they have already come first. `id` asks for one alone.

    Asking twice lends nothing more, so it is a GET.
    """
    app, labelling = asked.app, asked.app.labelling
    if asked.word("id"):
        found = app.world.examples([asked.word("id")])
    else:
        found = labelling.take(asked.number("limit", AHEAD, least=1, most=_MOST_AT_ONCE), by=asked.who.name)
    said = {one.example: str(one.label) for one in labelling.recent(_MOST_AT_ONCE, by=asked.who.name)}
    room, shown = Room(_MOST_BYTES), list[Task]()
    for example in found:
        if shown and room.left < _TASK_BYTES:  # those left come with the next answer: they are lent already
            break
        task = Room(_TASK_BYTES)
        shown.append(_task(example, app.project.schema, said.get(example.id, ""), task))
        room.take(_TASK_BYTES - task.left)
    return Page(template="_label_tasks.html", data={"tasks": shown})


def _task(example: Example, schema: Schema, said: str, room: Room) -> Task:
    shown = shown_inputs(schema, example.inputs, room)
    summary = "; ".join(f"{one.name}: {one.text[:160]}" for one in shown if one.kind != "picture")
    decision = "" if example.decision is None else str(example.decision)
    return Task(example.id, shown, summary, decision, example.version, said)


def standing(asked: Asked) -> Page:
    """Return how far the queue and this labeller are, and how labellers agree, as it was measured last."""
    app, who = asked.app, asked.who
    reading = asked.measured.ask(("label.figures",), partial(figures, app), fresh_s=15)
    data = {
        "num_waiting": app.world.reservoir.num_waiting(app.name),
        "num_today": app.labelling.num_answered(by=who.name, since=_midnight(asked.now)),
        "recent": app.labelling.recent(8, by=who.name),
        "reading": reading, "url": asked.link(), "mine": None, "labellers": None, "several": False,
    }  # fmt: skip
    if reading is not None and reading.value is not None:
        found: Figures = reading.value
        data["mine"] = next((one for one in found.labellers if one.name == who.name), None)
        data["labellers"] = labeller_rows(found.labellers) if who.is_operator and found.labellers else None
        data["agreement"] = found.agreement
    return Page(template="_label_standing.html", data=data)


def figures(app: App) -> Figures:
    """Measure labellers, and how far they agree."""
    return Figures(app.labelling.labellers(), app.labelling.agreement())


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


# --- tables


def labellers(asked: Asked) -> Table:
    """Return how each labeller does, measured now."""
    found = asked.app.labelling.labellers()
    return labeller_rows(found if asked.who.is_operator else [one for one in found if one.name == asked.who.name])


def labeller_rows(found: list[Labeller]) -> Table:
    """Return how labellers do."""
    rows = [
        Row(cells={
            "name": one.name, "answers": one.num_answers,
            "right": Interval(one.accuracy, one.low, one.high, one.num_golden) if one.num_golden else None,
        })
        for one in found
    ]  # fmt: skip
    return Table(
        name="labellers", title="Labellers", rows=rows, total=len(rows), empty="Nobody has answered yet.",
        columns=[
            Column(key="name", title="Labeller"), Column(key="answers", title="Answers", kind="count"),
            Column(key="right", title="Right", kind="interval", help="on golden examples, with the 95 % interval"),
        ],
    )  # fmt: skip


def skipped(asked: Asked) -> Page:
    """Return the tasks that somebody skipped and that wait."""
    return Page(template="_label_skipped.html", data={"skipped": skipped_table(asked)})


def skipped_table(asked: Asked) -> Table:
    """Return the tasks that somebody skipped and that wait, the newest word first."""
    found = asked.app.labelling.skipped(asked.limit)
    rows = [
        Row(key=one.example, cells={
            "example": Link(one.example, f"/label?id={one.example}"), "by": one.labeller, "reason": one.reason,
            "at": one.at,
        })
        for one in found
    ]  # fmt: skip
    return Table(
        name="skipped", title="Skipped tasks", rows=rows, picks=True, empty="Nobody has skipped a task that waits.",
        columns=[
            Column(key="example", title="Example", kind="code"), Column(key="by", title="Skipped by"),
            Column(key="reason", title="Why"), Column(key="at", title="When", kind="when"),
        ],
    )  # fmt: skip


# --- what is pressed


def answer(posted: Posted) -> Done:
    """Take an answer, once for its key."""
    value = label_of(posted)
    is_new = posted.app.labelling.answer([(posted.field("id"), value)], by=posted.who.name, key=key_of(posted))
    return Done(said="Taken." if is_new else "Taken already.", stay=True)


def skip(posted: Posted) -> Done:
    """Leave a task to others, once for its key."""
    labelling, id_ = posted.app.labelling, posted.field("id")
    is_new = labelling.skip(id_, by=posted.who.name, reason=posted.reason, key=key_of(posted))
    return Done(said="Skipped." if is_new else "Skipped already.", stay=True)


def drop(posted: Posted) -> Done:
    """Take the ticked tasks off the queue."""
    ids = _ticked(posted)
    posted.app.labelling.drop(ids, by=posted.who.name)
    return Done(said=f"Nobody is asked for the label of {len(ids)} any more.")


def label_of(posted: Posted) -> str | float:
    """Return the label that was sent, as a number where the output is one.

    Raises:
        InvalidInput: it is no number.
    """
    text = posted.field("label")
    if not isinstance(posted.app.project.output, Value):
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"the label {text[:60]!r} is no number.", "type a number", "label") from None


def key_of(posted: Posted) -> str:
    """Return what the browser calls this answer by, under the name of who is signed in.

    Raises:
        InvalidInput: it is missing or too long.
    """
    key = posted.field("key")
    if not 8 <= len(key) <= _MOST_KEY:
        raise InvalidInput("the key of this answer is none.", "load the page again", "key")
    return key


def _ticked(posted: Posted) -> list[str]:
    ids = posted.all("id")
    if not ids:
        raise InvalidInput("no task is ticked.", "tick one or more", "id")
    return ids


def _example(posted: Posted) -> str:
    return f"example {', '.join(posted.all('id'))[:200]}"


VIEW = View(
    path="/label",
    name="Label",
    group="Label",
    icon="label",
    show=show,
    role=Role.LABELLER,
    badge="queue",
    fragments={
        "tasks": Fragment(show=tasks),
        "standing": Fragment(show=standing),
        "waiting": Fragment(show=skipped, topics=("queue", "audit"), role=Role.OPERATOR),
    },
    tables={"labellers": labellers, "skipped": skipped_table},
    actions={
        "answer": Action(do=answer, verb="answer", thing=_example, role=Role.LABELLER, reason=False, audited=False),
        "skip": Action(do=skip, verb="skip", thing=_example, role=Role.LABELLER),
        "drop": Action(do=drop, verb="take off the queue", thing=_example),
    },
)
