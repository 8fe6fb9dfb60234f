"""What became of predictions, where each has one label in their order: nothing is looked up, and nothing changes."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidemill.records import Trust
from tidemill.stores.hindsight import with_outcomes

SECOND = 1_000_000

one_label = st.fixed_dictionaries({
    "delay_s": st.integers(-1, 12),
    "text": st.sampled_from(["ok", "toxic", None]),
    "number": st.sampled_from([0.5, 2.0, None]),
    "kind": st.sampled_from(["label", "label", "label", "confirm", "rating"]),
    "trust": st.sampled_from(["truth", "truth", "truth", "crowd"]),
})  # fmt: skip
alike = st.builds(
    lambda num, **same: [same] * num, st.integers(1, 5), delay_s=st.integers(-1, 12),
    text=st.sampled_from(["ok", "toxic"]), number=st.none(), kind=st.sampled_from(["label", "confirm"]),
    trust=st.sampled_from(["truth", "crowd"]),
)  # fmt: skip


def tables(given: list[dict[str, object]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions a second apart, and one fact about each."""
    ids, times = [f"request-{i}" for i in range(len(given))], [i * SECOND for i in range(len(given))]
    rows = pl.DataFrame({"request_id": ids, "received_at": times, "decision": ["ok"] * len(ids)})
    columns = {name: [one[name] for one in given] for name in ("kind", "text", "number", "trust")}
    at = [time + one["delay_s"] * SECOND for time, one in zip(times, given, strict=True)]  # type: ignore[operator]
    types = {"text": pl.String(), "number": pl.Float64()}
    facts = pl.DataFrame({"request_id": ids, "received_at": at, **columns}, schema_overrides=types)
    return rows, facts.with_columns(source=pl.lit("feedback"))


@given(st.one_of(st.lists(one_label, min_size=1, max_size=6), alike), st.sampled_from(list(Trust)), st.booleans())
@settings(deadline=None)
def test_one_label_each_tells_what_it_tells_among_other_facts(
    said: list[dict[str, object]], trust: Trust, is_text: bool
) -> None:
    rows, facts = tables(said)
    other = facts.tail(1).with_columns(request_id=pl.lit("request-of-somebody-else"))
    kind = pl.String() if is_text else pl.Float64()
    alone, among = (
        with_outcomes(rows, some, horizon=timedelta(seconds=10), trust=trust, events=(), kind=kind)
        for some in (facts, pl.concat([facts, other]))
    )
    assert_frame_equal(alone, among)
