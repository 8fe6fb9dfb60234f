"""What became of predictions: the label that counts, and the events, joined from feedback.

The order in which feedback arrived makes no difference: a label of higher trust wins, then the newer one. A word of
`confirm` is a label too: the decision that it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from tidemill.errors import ProjectError
from tidemill.records import CONFIRM, LABEL_KINDS, Trust

JUDGEMENTS = ("rating", "thumbs")  # nobody's silence is a rating of 0
_RANKS = {str(trust): trust.rank for trust in Trust}
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
    rows = rows.with_row_index(_ROW)
    timely = _timely(rows, facts, horizon)
    rows = _with_label(rows, _winners(confirmed(timely), trust), kind)
    for name in events:
        rows = rows.join(_event(timely, name), on=_ROW, how="left", maintain_order="left")
    silent = [pl.col(f"event_{name}").fill_null(0.0) for name in events if name not in JUDGEMENTS]
    return rows.with_columns(silent).drop(_ROW)


def value_of(facts: pl.DataFrame) -> pl.Expr:
    """Return the values of feedback as one column `value`: text where any is text, else float64."""
    if facts["text"].is_null().all():
        return pl.col("number").alias("value")
    return pl.coalesce("text", pl.col("number").cast(pl.String)).alias("value")


def _timely(rows: pl.DataFrame, facts: pl.DataFrame, horizon: timedelta) -> pl.DataFrame:
    """Return the feedback on these rows that came within the horizon, with the number of its row."""
    decision = pl.col("decision") if "decision" in rows.columns else pl.lit(None, dtype=pl.String)
    asked = rows.select(_ROW, "request_id", asked_at="received_at", decided=decision)
    late_by = pl.col("received_at") - pl.col("asked_at")
    inside = late_by.is_between(0, horizon // timedelta(microseconds=1))
    return _joined(facts, asked, "request_id").filter(inside)


def _joined(left: pl.DataFrame, right: pl.DataFrame, key: str) -> pl.DataFrame:
    """Join two frames on a key; where they have the same keys in one order, each once, no key is looked up."""
    keys = left[key]
    if keys.equals(right[key]) and keys.n_unique() == len(keys):
        return left.hstack(right.drop(key))
    return left.join(right, on=key)


def confirmed(facts: pl.DataFrame) -> pl.DataFrame:
    """Return facts in which a word of `confirm` has the value that it confirms, from a column `decided`.

    Where there was no decision it has none, and says nothing.
    """
    is_confirm = pl.col("kind") == CONFIRM
    is_text = facts.schema["decided"] == pl.String
    decided, nothing = pl.col("decided"), pl.lit(None)
    return facts.with_columns(
        text=pl.when(is_confirm).then(decided if is_text else nothing).otherwise("text"),
        number=pl.when(is_confirm).then(nothing if is_text else decided).otherwise("number"),
    )


def _winners(facts: pl.DataFrame, trust: Trust) -> pl.DataFrame:
    """Return the label that counts of each row: its number, label, label_trust, label_at."""
    rank = pl.col("trust").replace_strict(_RANKS, return_dtype=pl.Int64)
    known = pl.col("text").is_not_null() | pl.col("number").is_not_null()
    labels = facts.filter(pl.col("kind").is_in(LABEL_KINDS) & known & (rank >= trust.rank))
    order = [rank, pl.col("received_at"), pl.col("source"), pl.col("text"), pl.col("number")]
    best = labels
    if labels[_ROW].n_unique() < len(labels):
        best = labels.sort(order, descending=True, nulls_last=True).unique(_ROW, keep="first", maintain_order=True)
    label = value_of(best).alias("label")
    return best.select(_ROW, label, label_trust="trust", label_at="received_at")


def _with_label(rows: pl.DataFrame, winners: pl.DataFrame, kind: pl.DataType | None) -> pl.DataFrame:
    """Join the labels, in the type that decisions have, so that the two can be compared."""
    if winners[_ROW].equals(rows[_ROW]):  # each has a label
        rows = rows.hstack(winners.drop(_ROW))
    else:
        rows = rows.join(winners, on=_ROW, how="left", maintain_order="left")
    if kind is not None:
        return rows.with_columns(pl.col("label").cast(kind, strict=False))
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
