"""A logged request as a case of a suite: its inputs, and the answer that is right."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tidemill.clock import from_micros
from tidemill.errors import NotFound, ProjectError
from tidemill.project import Project
from tidemill.records import Json, Trust
from tidemill.schema import Output, Value
from tidemill.stores.log import Log
from tidemill.suites import Case

_INSTANT = timedelta(microseconds=1)


def logged_case(
    log: Log, project: Project, request_id: str, *, label: str | None, note: str, by: str, now: datetime
) -> tuple[Case, Json]:
    """Return a request as a case, and where it came from.

    Without a `label`, the one that a system of record or a person gave is taken.

    Raises:
        NotFound: the log has no such request.
        ProjectError: its inputs were not kept, or nobody has said what is right.
        InvalidInput: the label does not fit the output.
    """
    found = log.lookup(project.name, [request_id], schema=project.schema)
    if not len(found):
        raise NotFound(
            f"the log has no prediction {request_id!r}.", "check the id; while nothing runs, new ones wait for a loop"
        )
    row = found.to_dicts()[0]
    missing = [name for name in project.inputs if row.get(name) is None]
    if missing:
        problem = f"the log has no {missing[0]!r} for {request_id}: it was not kept, or was not declared then"
        raise ProjectError(f"{problem}.", "write the case into the suite's file by hand")
    answer = _parsed(label, project.output) if label is not None else _known(log, project, row, now)
    inputs = {name: row[name] for name in project.inputs}
    origin = {
        "request_id": request_id, "version": row["answered_version"], "decision": row["decision"], "by": by,
        "at": now.isoformat(timespec="seconds"),
    }  # fmt: skip
    return Case(id=request_id, inputs=inputs, label=answer, note=note), origin


def _parsed(text: str, output: Output) -> str | float:
    """Read a label typed on the command line: a number where the output is one."""
    try:
        return output.parse_label(float(text) if isinstance(output, Value) else text)
    except ValueError:
        return output.parse_label(text)  # says what is wrong with it


def _known(log: Log, project: Project, row: dict[str, Any], now: datetime) -> str | float:
    """Return the label in the log, of the trust that gates read."""
    at = from_micros(row["received_at"])
    rows = log.outcomes(
        project.name, after=at - _INSTANT, until=at, horizon=now - at, trust=Trust.FUNCTIONS,
        columns=["request_id"], schema=project.schema,
    )  # fmt: skip
    said = rows.filter(rows["request_id"] == row["request_id"]).to_dicts()[0]
    if said["label"] is None:
        raise ProjectError(f"nobody has said what is right for {row['request_id']}.", "give it with --label")
    if Trust(said["label_trust"]).rank < Trust.PEOPLE.rank:
        problem = f"{said['label']!r} is what the {said['label_trust']} said of {row['request_id']}, and may be wrong"
        raise ProjectError(f"{problem}.", f"if it is right, say so: --label {said['label']}")
    return project.output.parse_label(said["label"])
