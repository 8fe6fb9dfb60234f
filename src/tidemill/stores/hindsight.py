"""What became of predictions: the label that counts, and the events, joined from feedback.

The order in which feedback arrived makes no difference: a label of higher trust wins, then the newer one. A word of
`confirm` is a label too: the decision that it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from tidemill.errors import ProjectError
from tidemill.records import CONFIRM, JUDGEMENTS, LABEL_KINDS, Trust

_RANKS = {str(trust): trust.rank for trust in Trust}
_LABEL = "label"
_US = timedelta(microseconds=1)
_ROW = "\0row"  # no input has such a name
_ADDED = {"label_trust": pl.String(), "label_at": pl.Int64()}


def with_outcomes(
    rows: pl.DataFrame, facts: pl.DataFrame, *, horizon: timedelta, trust: Trust, events: Sequence[str],
    kind: pl.DataType | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Return `rows` with label, label_trust, label_at and `event_<name>` columns; see `Log.outcomes`.

    Args:
        rows: predictions with request_id and received_at, and with decision where a fact may confirm it.
        facts: feedback with text, number and trust.
        horizon: how long after its request feedback counts.
        trust: the least trust of a label.
        events: kinds of feedback that become columns.
        kind: the type of a label, null where it was of another; by default that of the decisions.

    Raises:
        ProjectError: an input has the name of a column that would be added.
    """
    taken = {"label", *_ADDED, *(f"event_{name}" for name in events)} & set(rows.columns)
    if taken:
        raise ProjectError(f"input {min(taken)!r} has the name of an outcome.", "rename the input")
    if not events and kind is not None and _one_each(rows, facts, horizon, trust):
        return _hand_in_hand(rows, facts, kind)
    rows = rows.with_row_index(_ROW)
    timely = _timely(rows, facts, horizon)
    rows = _with_label(rows, _winners(confirmed(timely), trust), kind)
    for name in events:
        rows = rows.join(_event(timely, name), on=_ROW, how="left", maintain_order="left")
    silent = [pl.col(f"event_{name}").fill_null(0.0) for name in events if name not in JUDGEMENTS]
    return _without_row(rows.with_columns(silent) if silent else rows)


def _one_each(rows: pl.DataFrame, facts: pl.DataFrame, horizon: timedelta, trust: Trust) -> bool:
    """Tell whether the facts are one label for each row, in their order, all of enough trust and in time."""
    ids = facts["request_id"]
    if not (0 < len(ids) == len(rows) and ids.equals(rows["request_id"]) and ids.n_unique() == len(ids)):
        return False
    kinds, trusts, late_by = facts["kind"], facts["trust"], facts["received_at"] - rows["received_at"]
    is_plain = all(_is_throughout(column) for column in (kinds, trusts)) and kinds[0] == _LABEL
    is_known = not facts["text"].has_nulls() or not facts["number"].has_nulls()
    in_time = int(late_by.min()) >= 0 and int(late_by.max()) <= horizon // _US  # type: ignore[arg-type]
    return is_plain and is_known and _RANKS.get(trusts[0], -1) >= trust.rank and in_time


def _is_throughout(column: pl.Series) -> bool:
    """Tell whether a column has one value, which is not null."""
    return not column.has_nulls() and bool((column == column[0]).all())


def _hand_in_hand(rows: pl.DataFrame, facts: pl.DataFrame, kind: pl.DataType) -> pl.DataFrame:
    """Lay labels beside the rows that they are of, one each: nothing is looked up."""
    label = value_of(facts).alias("label")
    label = label if label.dtype == kind else label.cast(kind, strict=False)
    return rows.hstack([label, facts["trust"].alias("label_trust"), facts["received_at"].alias("label_at")])


def value_of(facts: pl.DataFrame) -> pl.Series:
    """Return the values of feedback as one column `value`: text where any is text, else float64."""
    text, number = facts["text"], facts["number"]
    if text.null_count() == len(text):
        return number.alias("value")
    if not text.has_nulls():
        return text.alias("value")
    return text.zip_with(text.is_not_null(), number.cast(pl.String)).alias("value")


def _without_row(frame: pl.DataFrame) -> pl.DataFrame:
    return frame[[name for name in frame.columns if name != _ROW]]


def _timely(rows: pl.DataFrame, facts: pl.DataFrame, horizon: timedelta) -> pl.DataFrame:
    """Return the feedback on these rows that came within the horizon, with the number of its row."""
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, len(rows))
    decided = (rows["decision"] if "decision" in rows.columns else nothing).alias("decided")
    asked = pl.DataFrame([rows[_ROW], rows["request_id"], rows["received_at"].alias("asked_at"), decided])
    joined = _joined(facts, asked, "request_id")
    late_by = joined["received_at"] - joined["asked_at"]
    inside = (late_by >= 0) & (late_by <= horizon // timedelta(microseconds=1))
    return joined if inside.all() else joined.filter(inside)


def _joined(left: pl.DataFrame, right: pl.DataFrame, key: str) -> pl.DataFrame:
    """Join two frames on a key; where they have the same keys in one order, each once, no key is looked up."""
    keys = left[key]
    if keys.equals(right[key]) and keys.n_unique() == len(keys):
        return left.hstack([right[name] for name in right.columns if name != key])
    return left.join(right, on=key)


def confirmed(facts: pl.DataFrame) -> pl.DataFrame:
    """Return facts in which a word of `confirm` has the value that it confirms, from a column `decided`.

    Where there was no decision it has none, and says nothing.
    """
    if not (facts["kind"] == CONFIRM).any():
        return facts
    is_confirm = pl.col("kind") == CONFIRM
    is_text = facts.schema["decided"] == pl.String
    decided, nothing = pl.col("decided"), pl.lit(None)
    return facts.with_columns(
        text=pl.when(is_confirm).then(decided if is_text else nothing).otherwise("text"),
        number=pl.when(is_confirm).then(nothing if is_text else decided).otherwise("number"),
    )


def _winners(facts: pl.DataFrame, trust: Trust) -> pl.DataFrame:
    """Return the label that counts of each row: its number, label, label_trust, label_at."""
    known = pl.col("text").is_not_null() | pl.col("number").is_not_null()
    enough = pl.col("trust").is_in([str(one) for one in Trust if one.rank >= trust.rank])
    counts = facts.select(pl.col("kind").is_in(LABEL_KINDS) & known & enough).to_series()
    best = labels = facts if counts.all() and not counts.has_nulls() else facts.filter(counts)
    if labels[_ROW].n_unique() < len(labels):
        rank = pl.col("trust").replace_strict(_RANKS, return_dtype=pl.Int64)
        order = [rank, pl.col("received_at"), pl.col("source"), pl.col("text"), pl.col("number")]
        best = labels.sort(order, descending=True, nulls_last=True).unique(_ROW, keep="first", maintain_order=True)
    label, trusted, at = value_of(best), best["trust"], best["received_at"]
    return pl.DataFrame([best[_ROW], label.alias("label"), trusted.alias("label_trust"), at.alias("label_at")])


def _with_label(rows: pl.DataFrame, winners: pl.DataFrame, kind: pl.DataType | None) -> pl.DataFrame:
    """Join the labels, in the type that decisions have, so that the two can be compared."""
    if winners[_ROW].equals(rows[_ROW]):  # each has a label
        rows = rows.hstack(_without_row(winners))
    else:
        rows = rows.join(winners, on=_ROW, how="left", maintain_order="left")
    if kind is not None:
        same = rows.schema["label"] == kind
        return rows if same else rows.with_columns(pl.col("label").cast(kind, strict=False))
    if "decision" not in rows.columns:
        return rows
    types = {name: rows.schema[name] for name in ("decision", "label") if rows[name].is_not_null().any()}
    kinds = set(types.values()) or {rows.schema["decision"]}
    common = kinds.pop() if len(kinds) == 1 else pl.String()
    return rows.with_columns(pl.col("decision", "label").cast(common))


def _event(facts: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the newest value of an event for each row that has it."""
    mine = facts.filter(pl.col("kind") == name).sort("received_at", "number", "text", nulls_last=False)
    newest = mine.unique(_ROW, keep="last", maintain_order=True)
    value = pl.lit(1.0) if name in LABEL_KINDS else pl.col("number").fill_null(1.0)  # that it was said at all
    return newest.select(_ROW, value.alias(f"event_{name}"))
