"""The values that pass between layers come back from JSON and msgpack as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.clock import SystemClock, from_micros
from tidemill.policy import Policy
from tidemill.records import Feedback, ModelVersion, Outcome, Prediction, Route, Trust, Verdict
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database

NUMBERS = st.dictionaries(
    st.text(max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    max_size=3,
)


def verdicts() -> st.SearchStrategy[Verdict]:
    def built(parts: st.SearchStrategy[tuple[Verdict, ...]]) -> st.SearchStrategy[Verdict]:
        return st.builds(
            Verdict, outcome=st.sampled_from(Outcome), by=st.text(max_size=8), reason=st.text(max_size=20),
            numbers=NUMBERS, back_to=st.sampled_from(["", "data", "labels"]), parts=parts,
        )  # fmt: skip

    return st.recursive(built(st.just(())), lambda inner: built(st.lists(inner, max_size=2).map(tuple)), max_leaves=4)


@given(verdicts())
def test_a_verdict_comes_back_from_json_with_its_numbers_and_its_parts(verdict: Verdict) -> None:
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_trust_is_ordered_from_functions_to_truth() -> None:
    ranked = sorted(Trust, key=lambda t: t.rank)
    assert ranked == [Trust.FUNCTIONS, Trust.CROWD, Trust.PEOPLE, Trust.TRUTH]
    assert [t.rank for t in ranked] == [0, 1, 2, 3]


def test_trust_and_outcome_are_their_own_text() -> None:
    assert Trust("people") is Trust.PEOPLE and str(Trust.PEOPLE) == "people"
    assert Outcome("fire") is Outcome.FIRE and json.dumps(Outcome.FIRE) == '"fire"'


ROUTES = st.builds(
    Route,
    revision=st.just(0),
    stable=st.just(1),
    fallback=st.none() | st.just(2),
    candidate=st.none() | st.just(3),
    share=st.floats(0, 1),
    salt=st.text(max_size=8),
    rollout=st.none() | st.text(min_size=1, max_size=8),
    shadows=st.lists(st.integers(1, 3), unique=True, max_size=2).map(tuple),
    lapses_at=st.none() | st.integers(0, 2**52).map(from_micros),
    policy_version=st.integers(1, 9),
)


def test_a_route_comes_back_from_the_catalog_as_it_was_set(tmp_path: Path) -> None:
    with Database.open(f"sqlite:///{tmp_path / 'x.db'}") as db:
        catalog, now = Catalog(db), SystemClock().now()
        with db.begin() as conn:
            catalog.publish(conn, {"project": "p"}, {"stages": 6}, file="p.py", now=now)
            for run in "abc":
                model = ModelVersion(
                    version=0, artefact="x", created_at=now, dataset=None, strategy="", parent=None, cycle=None, run=run
                )
                catalog.add_model(conn, "p", model)
            for _ in range(8):  # after the one that is declared
                catalog.add_policy(conn, "p", Policy(), now=now, by="test", reason="")

        @settings(max_examples=25)  # each is a transaction that is synced to the disk
        @given(ROUTES)
        def comes_back(route: Route) -> None:
            before = catalog.route("p")
            wanted = replace(route, revision=before.revision if before else 0)
            with db.begin() as conn:
                given_back = catalog.set_route(conn, "p", wanted, now=now, by="test", reason="")
            assert catalog.route("p") == given_back
            assert given_back == replace(wanted, revision=wanted.revision + 1)

        comes_back()


def test_a_route_names_each_version_it_needs_once_and_the_stable_one_first() -> None:
    route = Route(revision=1, stable=4, fallback=2, candidate=5, shadows=(5, 6, 2))
    assert route.versions() == (4, 5, 2, 6)


def test_rows_of_the_log_come_back_from_msgpack() -> None:
    row = Prediction(
        request_id="r", received_at=1, role="answer", unit="u", subject=None, rollout=None, share=0.5, salt="s",
        route_revision=1, assigned_version=1, answered_version=0, fallback_reason="raised", error="boom",
        policy_version=1, tags={"a": "b"}, inputs={"x": 1.0, "image": b"\x00\xff"}, scores=[0.5, 0.5], decision="ok",
        abstained=False, cached=False, latency_ms=1.5, keep_probability=0.25, outlier=["x"], top_k=["ok", "not"],
    )  # fmt: skip
    told = Feedback(request_id="r", received_at=2, kind="label", value="ok", source="http", trust="crowd")
    for value in (row, told):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_a_row_written_before_it_had_its_last_fields_is_read_as_it_is() -> None:
    now = Prediction(
        request_id="r", received_at=1, role="answer", unit="u", subject=None, rollout=None, share=0.5, salt="s",
        route_revision=1, assigned_version=1, answered_version=1, fallback_reason=None, error=None, policy_version=1,
        tags={}, inputs=None, scores=[0.5], decision="ok", abstained=False, cached=False, latency_ms=1.5,
        keep_probability=0.25,
    )  # fmt: skip
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(now))
    before = msgspec.msgpack.encode(fields[: fields.index(0.25) + 1])
    assert msgspec.msgpack.decode(before, type=Prediction) == now
