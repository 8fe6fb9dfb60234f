"""Who labels what: tasks of the queue on loan to labellers, what each of them said, and golden examples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, delete, exists, func, or_, select

from tidemill.clock import from_micros, micros
from tidemill.stores.database import Database, dumps, loads
from tidemill.stores.rows import insert_once, put
from tidemill.stores.tables import golden, labellings, projects, queue, receipts

_GOLDEN_ROUND = 0
_RECEIPTS_LAST = timedelta(days=30)


class Labelling(NamedTuple):
    """One answer of one labeller. `known` is the label of a golden example, None of any other."""

    example: str
    labeller: str
    asked_at: int
    label: str | float
    known: str | float | None


class Answered(NamedTuple):
    """What a labeller said lately."""

    example: str
    label: str | float
    at: datetime


class Skipped(NamedTuple):
    """A task that waits and that somebody skipped."""

    example: str
    labeller: str
    at: datetime
    reason: str


class Labellings:
    """Keeps the loans and the answers, by project. An example that is asked for again begins a round of its own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def take(
        self, conn: Connection, project: str, by: str, limit: int, *, now: datetime, lease: timedelta, per_example: int,
        golden_share: float,
    ) -> list[str]:  # fmt: skip
        """Lend tasks to a labeller until `now + lease`, and return them: those of before first, then the most urgent.

        A task is on loan to one labeller, or to as many as still have to label it. One on which `per_example` people
        do not agree goes to one more at a time. `golden_share` of what a labeller gets are golden examples.
        """
        conn.execute(select(projects.c.project).where(projects.c.project == project).with_for_update())
        at, until = micros(now), micros(now + lease)
        mine = [tuple(row) for row in conn.execute(_lent(project, at).where(labellings.c.labeller == by))][:limit]
        room = limit - len(mine)
        measuring = self._golden_for(conn, project, by, room, golden_share)
        free = _free(project, by, at, per_example).limit(room - len(measuring))
        tasks = [*mine, *(tuple(row) for row in conn.execute(free))]
        for example, asked_at in (*tasks, *((id_, _GOLDEN_ROUND) for id_ in measuring)):
            put(conn, labellings, _key(project, example, by, asked_at), {"leased_until": until})
        return _mixed([example for example, _ in tasks], measuring)

    def say(self, conn: Connection, project: str, example: str, *, by: str, label: str | float, now: datetime) -> bool:
        """Keep what a labeller says of an example; return False where it is golden, and the word only measures."""
        known = conn.execute(select(golden.c.label).where(*_one(golden, project, example))).first()
        asked_at = _GOLDEN_ROUND if known else self._round(conn, project, example)
        at = micros(now)
        values = {"leased_until": at, "answered_at": at, "label": dumps(label), "skipped_at": None, "reason": None}
        put(conn, labellings, _key(project, example, by, asked_at), values)
        return known is None

    def skip(self, conn: Connection, project: str, example: str, *, by: str, reason: str, now: datetime) -> bool:
        """Keep that a labeller would not say, and never give it to them again in this round.

        What they had said of it in this round is taken back; return whether they had said something.
        """
        known = conn.execute(select(golden.c.label).where(*_one(golden, project, example))).first()
        key = _key(project, example, by, _GOLDEN_ROUND if known else self._round(conn, project, example))
        mine = [labellings.c[name] == value for name, value in key.items()]
        said = conn.execute(select(labellings.c.answered_at).where(*mine)).scalar() is not None
        at = micros(now)
        values = {"leased_until": at, "answered_at": None, "label": None, "skipped_at": at, "reason": reason}
        put(conn, labellings, key, values)
        return said and known is None

    def is_first(self, conn: Connection, project: str, key: str, *, now: datetime) -> bool:
        """Tell whether nothing of this key was taken before, and note that it is now; a key is kept for 30 days."""
        conn.execute(delete(receipts).where(receipts.c.at < micros(now - _RECEIPTS_LAST)))
        return insert_once(conn, receipts, {"project": project, "key": key}, {"at": micros(now)})

    def num_answered(self, project: str, by: str, *, since: datetime) -> int:
        """Return how many examples a labeller has answered since a time."""
        mine = (labellings.c.project == project, labellings.c.labeller == by, labellings.c.answered_at >= micros(since))
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(labellings).where(*mine)).scalar_one())

    def recent(self, project: str, by: str, limit: int) -> list[Answered]:
        """Return what a labeller said last, the newest first."""
        mine = (labellings.c.project == project, labellings.c.labeller == by, labellings.c.answered_at.is_not(None))
        query = select(labellings.c.example, labellings.c.label, labellings.c.answered_at).where(*mine)
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(labellings.c.answered_at.desc(), labellings.c.example).limit(limit))
            return [Answered(example, loads(label), from_micros(at)) for example, label, at in rows]

    def skipped(self, project: str, limit: int) -> list[Skipped]:
        """Return tasks that wait and that somebody skipped, the newest word first."""
        mine = labellings.c
        same = and_(queue.c.project == mine.project, queue.c.example == mine.example, queue.c.asked_at == mine.asked_at)
        query = select(mine.example, mine.labeller, mine.skipped_at, mine.reason).select_from(
            labellings.join(queue, same)
        )
        query = query.where(mine.project == project, mine.skipped_at.is_not(None), queue.c.answered_at.is_(None))
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(mine.skipped_at.desc(), mine.example).limit(limit))
            return [Skipped(a, b, from_micros(at), why or "") for a, b, at, why in rows]

    def said(self, conn: Connection, project: str, example: str) -> list[str | float]:
        """Return what was said of an example in its newest round, the oldest word first."""
        known = (*_one(labellings, project, example), labellings.c.answered_at.is_not(None))
        of_round = labellings.c.asked_at == self._round(conn, project, example)
        order = (labellings.c.answered_at, labellings.c.labeller)
        query = select(labellings.c.label).where(*known, of_round).order_by(*order)
        return [loads(one) for one in conn.execute(query).scalars()]

    def make_golden(self, conn: Connection, project: str, labels: Mapping[str, str | float]) -> None:
        """Let examples measure labellers by their known labels; they wait for no label any more."""
        for example, label in labels.items():
            put(conn, golden, {"project": project, "example": example}, {"label": dumps(label)})
            conn.execute(delete(queue).where(*_one(queue, project, example), queue.c.answered_at.is_(None)))

    def answers(self, project: str) -> list[Labelling]:
        """Return all that labellers said, in order of time."""
        same = and_(golden.c.project == labellings.c.project, golden.c.example == labellings.c.example)
        mine = labellings.c
        columns = (mine.example, mine.labeller, mine.asked_at, mine.label, golden.c.label)
        query = select(*columns).select_from(labellings.outerjoin(golden, same))
        query = query.where(mine.project == project, mine.answered_at.is_not(None))
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(mine.answered_at, mine.example, mine.labeller)).all()
        return [Labelling(a, b, c, loads(d), None if e is None else loads(e)) for a, b, c, d, e in rows]

    def _round(self, conn: Connection, project: str, example: str) -> int:
        """Return when an example was asked for last; 0 where it never was."""
        asked = conn.execute(select(queue.c.asked_at).where(*_one(queue, project, example))).scalar()
        return int(asked or _GOLDEN_ROUND)

    def _golden_for(self, conn: Connection, project: str, by: str, room: int, share: float) -> list[str]:
        """Return golden examples that a labeller has not met, as many as bring them up to their share."""
        mine = (labellings.c.project == project, labellings.c.labeller == by)
        count = select(func.count()).select_from(labellings)
        met = int(conn.execute(count.where(*mine, labellings.c.asked_at == _GOLDEN_ROUND)).scalar_one())
        done = int(conn.execute(count.where(*mine)).scalar_one())
        num = min(room, int(share * (done + room)) - met)
        if num <= 0:
            return []
        seen = exists().where(*mine, labellings.c.example == golden.c.example)
        fresh = select(golden.c.example).where(golden.c.project == project, ~seen).order_by(golden.c.example).limit(num)
        return list(conn.execute(fresh).scalars())


def _key(project: str, example: str, by: str, asked_at: int) -> dict[str, Any]:
    return {"project": project, "example": example, "labeller": by, "asked_at": asked_at}


def _one(table: Any, project: str, example: str) -> tuple[Any, Any]:
    return table.c.project == project, table.c.example == example


def _lent(project: str, at: int) -> Select[Any]:
    """Select what is on loan and not answered."""
    lent = (labellings.c.answered_at.is_(None), labellings.c.leased_until > at)
    query = select(labellings.c.example, labellings.c.asked_at).where(labellings.c.project == project, *lent)
    return query.order_by(labellings.c.asked_at, labellings.c.example)


def _free(project: str, by: str, at: int, per_example: int) -> Select[Any]:
    """Select the tasks that a labeller may be given, the most urgent first, then the longest waiting."""
    of_task = (
        labellings.c.project == queue.c.project, labellings.c.example == queue.c.example,
        labellings.c.asked_at == queue.c.asked_at,
    )  # fmt: skip
    on_loan = and_(labellings.c.answered_at.is_(None), labellings.c.leased_until > at)
    count = select(func.count()).select_from(labellings)
    num_lent = count.where(*of_task, on_loan).correlate(queue).scalar_subquery()
    busy = or_(on_loan, labellings.c.answered_at.is_not(None))
    num_busy = count.where(*of_task, busy).correlate(queue).scalar_subquery()
    past = or_(busy, labellings.c.skipped_at.is_not(None))
    mine = exists().where(*of_task, labellings.c.labeller == by, past).correlate(queue)
    waiting = (queue.c.project == project, queue.c.answered_at.is_(None), ~mine)
    room = or_(num_busy < per_example, num_lent == 0)  # who waits although enough have answered is not agreed upon
    order = (queue.c.priority.desc(), queue.c.asked_at, queue.c.example)
    return select(queue.c.example, queue.c.asked_at).where(*waiting, room).order_by(*order)


def _mixed(tasks: list[str], measuring: list[str]) -> list[str]:
    """Return tasks in their order, with golden examples among them at places that tell nothing."""
    tasks = list(tasks)
    for example in measuring:
        drawn = int.from_bytes(hashlib.blake2b(example.encode(), digest_size=8).digest(), "big")
        tasks.insert(drawn % (len(tasks) + 1), example)
    return tasks
