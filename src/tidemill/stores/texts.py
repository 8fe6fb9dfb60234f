"""The JSON and the sentences that the catalog keeps of what was measured and decided: to change what they quote."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, select, tuple_, update

from tidemill.records import Json
from tidemill.stores.database import dumps, loads
from tidemill.stores.tables import alerts, audit, cycles, reports, states, steps, verdicts

_OF_CYCLES = ((verdicts, "body"), (steps, "body"), (cycles, "trigger"))
_PART = 500  # rows in memory at a time
_JSON = (*_OF_CYCLES, (alerts, "verdict"), (states, "body"))


def change_texts(conn: Connection, project: str, change: Callable[[str], str]) -> int:
    """Change the texts in verdicts, steps, cycles, alerts and the states of steps; return how many rows changed."""
    num = sum(_each(conn, project, table, name, lambda text: _walked(text, change)) for table, name in _JSON)
    return num + _each(conn, project, cycles, "reason", change)


def change_texts_about(conn: Connection, project: str, datasets: Collection[str], change: Callable[[str], str]) -> int:
    """Change the texts in verdicts, steps and cycles about candidates that learnt from one of these datasets."""
    mine = (cycles.c.project == project, cycles.c.dataset.in_(datasets))
    of = set(conn.execute(select(cycles.c.number).where(*mine)).scalars())
    num = sum(
        _each(conn, project, table, name, lambda text: _walked(text, change), of=of) for table, name in _OF_CYCLES
    )
    return num + _each(conn, project, cycles, "reason", change, of=of)


def change_reports(conn: Connection, project: str, change: Callable[[Json], Json]) -> int:
    """Change the bodies of reports, but not when they were made; return how many changed."""
    return _each(conn, project, reports, "body", lambda text: dumps(change(loads(text))))


def change_audit(conn: Connection, project: str, change: Callable[[str], str]) -> int:
    """Change the reasons and results of a project's audit rows; return how many changed."""
    return sum(_each(conn, project, audit, name, change) for name in ("reason", "result"))


def walk(value: Json, change: Callable[[str], str]) -> Json:
    """Return a value with every text in it changed, the keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): walk(part, change) for name, part in value.items()}
    return [walk(part, change) for part in value] if isinstance(value, list | tuple) else value


def _walked(text: str, change: Callable[[str], str]) -> str:
    value = loads(text)
    changed = walk(value, change)
    return text if changed == value else dumps(changed)


def _each(
    conn: Connection, project: str, table: Any, name: str, change: Callable[[str], str], *,
    of: Collection[int] | None = None,
) -> int:  # fmt: skip
    """Change a column in all rows, or in those `of` these cycles; return in how many it is another now."""
    key = [column for column in table.primary_key.columns if column.name != "project"]
    rows = select(*key, table.c[name]).where(table.c.project == project)
    if of is not None:
        rows = rows.where((table.c.number if table is cycles else table.c.cycle).in_(of))
    num, part = 0, conn.execute(rows.order_by(*key).limit(_PART)).all()
    while part:
        for row in part:
            changed = change(row[-1])
            if changed != row[-1]:
                one = [column == value for column, value in zip(key, row[:-1], strict=True)]
                conn.execute(update(table).where(table.c.project == project, *one).values({name: changed}))
                num += 1
        last = tuple_(*part[-1][:-1])
        part = conn.execute(rows.where(tuple_(*key) > last).order_by(*key).limit(_PART)).all()
    return num
