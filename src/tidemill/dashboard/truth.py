"""What feedback says is true of a request: the label of the highest trust, then the newest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from tidemill.clock import from_micros
from tidemill.errors import InvalidInput
from tidemill.records import CONFIRM, LABEL_KINDS, Trust
from tidemill.schema import Output
from tidemill.stores.log import Log


class Truth(NamedTuple):
    """A label, and how far its source is trusted."""

    label: str | float
    trust: str


def truths(log: Log, project: str, output: Output, rows: Sequence[Mapping[str, Any]]) -> dict[str, Truth]:
    """Return by request id what is known to be true of rows with `request_id`, `received_at` and `decision`."""
    if not rows:
        return {}
    since = from_micros(min(int(row["received_at"]) for row in rows))
    facts = log.about(project, [row["request_id"] for row in rows], since=since)
    facts = facts.filter(pl.col("kind").is_in(list(LABEL_KINDS)))
    decided = {row["request_id"]: row["decision"] for row in rows}
    found: dict[str, tuple[tuple[int, int], Truth]] = {}
    for fact in facts.iter_rows(named=True):
        id_ = fact["request_id"]
        label = _label(output, decided[id_] if fact["kind"] == CONFIRM else fact["value"])
        rank = (Trust(fact["trust"]).rank, int(fact["received_at"]))
        if label is not None and (id_ not in found or rank >= found[id_][0]):
            found[id_] = (rank, Truth(label, fact["trust"]))
    return {id_: truth for id_, (_, truth) in found.items()}


def _label(output: Output, value: object) -> str | float | None:
    try:
        return None if value is None else output.parse_label(value)
    except InvalidInput:
        return None
