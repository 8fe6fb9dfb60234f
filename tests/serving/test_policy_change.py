"""A policy changes without a new model: each reply and row is decided by one policy, and says by which."""

from __future__ import annotations

from dataclasses import replace

import pytest
from artefacts import graph
from served import Place, predict, running, until

from tidemill.clock import SystemClock
from tidemill.policy import Policy


def use(place: Place, policy: Policy) -> int:
    """Put a policy in force, as `tidemill policy set` does."""
    route, now = place.catalog.route("pets"), SystemClock().now()
    assert route is not None
    with place.database.begin() as conn:
        number = place.catalog.add_policy(conn, "pets", policy, now=now, by="ann", reason="").number
        place.catalog.set_route(conn, "pets", replace(route, policy_version=number), now=now, by="ann", reason="")
    return number


def test_a_new_policy_decides_the_same_scores_otherwise_and_can_be_taken_back(place: Place) -> None:
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        first = predict(client).json()
        best = max(first["scores"], key=first["scores"].get)
        assert (first["decision"], first["policy"], "top_k" in first) == (best, 1, False)

        use(place, Policy(thresholds={best: 1.1}, top=3))
        second = until(lambda: r if (r := predict(client).json())["policy"] == 2 else None)
        assert second["scores"] == pytest.approx(first["scores"]) and second["version"] == first["version"]
        assert second["decision"] != best and second["top_k"][0] == second["decision"]
        assert sorted(second["top_k"]) == sorted(first["scores"]) and second["top_k"][-1] == best

        with place.database.begin() as conn:
            back = replace(place.catalog.route("pets"), policy_version=1)
            place.catalog.set_route(conn, "pets", back, now=SystemClock().now(), by="ann", reason="")
        assert until(lambda: r if (r := predict(client).json())["policy"] == 1 else None)["decision"] == best
        rows = {row.request_id: row for row in place.rows()[0]}
    row = rows[second["request_id"]]
    assert (row.policy_version, row.decision, row.top_k) == (2, second["decision"], second["top_k"])
    assert (rows[first["request_id"]].policy_version, rows[first["request_id"]].top_k) == (1, None)
