"""The members of curation in the loop: what each needs is fetched from the real stores."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from harness import PROJECT, Harness

from tidemill.errors import ProjectError

MEMBERS = (
    "tm.curate.Similar(0.1, to='x > 1.5') + tm.curate.Similar(0.1, to='edge') + tm.curate.Projected(0.1, name='far') "
    "+ tm.curate.Projected(0.1, name='x', extreme='high') + tm.curate.ExpectedError(0.1) + tm.curate.Novel(0.1) "
    "+ tm.curate.Representative(0.1) + tm.curate.Diverse(0.1) + tm.curate.Random(0.2)"
)


def project(members: str) -> str:
    before = "tm.curate.Uncertain(0.3) + tm.curate.FeedbackDriven(0.3) + tm.curate.Random(0.4)"
    text = PROJECT.replace(before, members).replace(
        "    cohorts=",
        "    projections={'far': far}, suites=[tm.suites.Cases('edge', 'edge.jsonl')],\n    cohorts=",
    )
    degraded = "(tm.trigger.Degraded('accuracy', drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most('10m')"
    text = text.replace(degraded.replace("'", '"'), "tm.trigger.Manual()")
    return text.replace(
        "project = tm.Project(", "def far(row):\n    return bool(abs(row['x']) > 1.5)\n\nproject = tm.Project("
    )


def test_each_member_picks_what_it_looks_for(tmp_path: Path):
    (tmp_path / "edge.jsonl").write_text('{"inputs": {"x": 2.0, "y": 2.0, "app": "v1"}, "label": "high"}\n')
    harness = Harness.make(tmp_path, project=project(MEMBERS))
    harness.accuracy = {(1, "v1"): 0.95, (1, "v2"): 0.1}
    harness.new_share = 0.2
    harness.seconds(60)
    index = harness.app.world.reservoir.index(harness.name).filter(pl.col("request_id").is_not_null())
    reasons = set(index["reason"].to_list())
    assert reasons == {
        "similar: x > 1.5", "similar: edge", "projected: far", "projected: x", "expected error", "novel", "diverse",
        "representative", "random",
    }  # fmt: skip
    picked = {why: _inputs(harness, index.filter(pl.col("reason") == why)["id"].to_list()) for why in reasons}
    assert all(abs(row["x"]) > 1.5 for row in picked["projected: far"])
    assert all(row["x"] > 0 and row["y"] > 0 for row in picked["similar: edge"])
    expected = picked["expected error"]
    assert sum(row["app"] == "v2" for row in expected) > len(expected) / 2
    assert index.filter(pl.col("reason").is_in(["novel", "diverse"]))["probability"].unique().to_list() == [1.0]


def _inputs(harness: Harness, ids: list[str]) -> list[dict[str, object]]:
    return harness.app.world.reservoir.inputs(harness.name, ids)


def test_something_to_be_like_that_is_nothing_is_refused_when_the_project_is_opened(tmp_path: Path):
    with pytest.raises(ProjectError, match="no suite, no cohort and no condition"):
        Harness.open(tmp_path, project=project("tm.curate.Similar(to='nobody')"))
