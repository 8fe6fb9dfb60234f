"""The audit log: who did what to which thing, when, why, and what came of it."""

from __future__ import annotations

from tidemill.dashboard.table import Column, Row, Table
from tidemill.dashboard.view import Asked, Page, View
from tidemill.stores.audit import Act, Audit

_COLUMNS = [
    Column(key="at", title="When", kind="when"), Column(key="by", title="Who"), Column(key="verb", title="Did"),
    Column(key="thing", title="To"), Column(key="reason", title="Why"), Column(key="result", title="What came of it"),
    Column(key="via", title="By way of", help="the page, the command line, or the loop"),
]  # fmt: skip


def show(asked: Asked) -> Page:
    """Return the newest actions, of one person or one verb if asked for."""
    by, verbs = Audit(asked.app.db).words(asked.app.name)
    return Page(template="audit.html", title="Audit", data={"acts": acts(asked), "names": by, "verbs": verbs})


def acts(asked: Asked) -> Table:
    """Return the actions, the newest first."""
    before = asked.number("after", 0) or None
    found = Audit(asked.app.db).acts(
        asked.app.name, limit=asked.limit + 1, before=before, by=asked.word("by"), verb=asked.word("verb")
    )
    shown = found[: asked.limit]
    return Table(
        name="acts", title="Actions", columns=_COLUMNS, rows=[_row(one) for one in shown],
        next=str(shown[-1].id) if len(found) > len(shown) else "", empty="Nobody has done anything like that.",
        command='tidemill pause --reason "to see it here"',
    )  # fmt: skip


def _row(one: Act) -> Row:
    cells = {name: getattr(one, name) for name in ("at", "by", "verb", "thing", "reason", "result", "via")}
    return Row(cells=cells, key=str(one.id), tone="bad" if one.result.startswith("refused") else "")


VIEW = View(path="/audit", name="Audit", group="Run", icon="audit", show=show, tables={"acts": acts})
