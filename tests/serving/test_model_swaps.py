"""What a model runs on, and how it is decided, changes under load without a dropped or a mixed request."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from artefacts import graph, python_artefact
from served import Place, predict, running, until
from test_switching import Load

from tidemill.clock import SystemClock
from tidemill.manifest import Limits
from tidemill.policy import Policy


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "tidemill.runtime.worker" in child.cmdline():
                found.append(child)
    return found


def test_workers_are_added_and_taken_away_under_load(place: Place, tmp_path: Path) -> None:
    place.publish()
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle")))
    with running(place) as client, Load(client.base_url) as load:
        first = workers()
        place.publish(limits=Limits(copies=3))
        until(lambda: not any(worker.is_running() for worker in first))
        assert len(workers()) == 3
        assert client.get("/v1/models").json()["models"][0]["versions"][0]["copies"] == 3
        place.publish(limits=Limits(copies=1, threads=2))
        until(lambda: len(workers()) == 1)
        seen = len(load.replies)
        until(lambda: len(load.replies) > seen + 20)
    assert set(load.replies) == {(1, None, 200)}
    assert len(place.rows()[0]) == len(load.replies)


def test_every_answer_under_load_is_decided_by_the_one_policy_it_names(place: Place) -> None:
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        best = predict(client).json()["decision"]
        with Load(client.base_url) as load:
            for number in range(2, 8):  # in turn: the best is out of reach, or within it
                policy = Policy(thresholds={best: 1.1 if number % 2 == 0 else 0.0}, top=2)
                route, now = place.catalog.route("pets"), SystemClock().now()
                assert route is not None
                with place.database.begin() as conn:
                    place.catalog.add_policy(conn, "pets", policy, now=now, by="ann", reason="")
                    changed = replace(route, policy_version=number)
                    place.catalog.set_route(conn, "pets", changed, now=now, by="ann", reason="")
                until(lambda number=number: predict(client).json()["policy"] == number)
    assert {(fallback, status) for _, fallback, status in load.replies} == {(None, 200)}
    rows, _ = place.rows()
    assert {row.policy_version for row in rows} == set(range(1, 8))
    for row in rows:
        assert row.route_revision == row.policy_version
        assert (row.decision == best) == (row.policy_version % 2 == 1)
        assert (row.top_k is None) == (row.policy_version == 1)


def test_a_version_that_is_given_another_artefact_outlives_the_folder_of_the_one_before(
    place: Place, tmp_path: Path
) -> None:
    """As when somebody is forgotten, and its workers are replaced days later: by then the sweep took that folder."""
    place.publish()
    folder = python_artefact(tmp_path / "a", "Fickle")
    old = place.blobs.put_folder(folder)
    (folder / "more.txt").write_text("as good")
    new = place.blobs.put_folder(folder)
    place.route(stable=place.add(old))
    with running(place) as client, Load(client.base_url) as load:
        (first,) = workers()
        replace_artefact(place, old, new)
        until(lambda: not first.is_running() and len(workers()) == 1)
        (second,) = workers()
        place.blobs.remove(old)
        second.kill()
        until(lambda: workers() and second not in workers())
        seen = len(load.replies)
        until(lambda: len(load.replies) > seen + 20)
        replies = load.replies[seen:]
    assert set(replies[4:]) == {(1, None, 200)}, "but for those that it died with"


def test_while_another_artefact_of_a_version_does_not_load_the_one_before_answers(place: Place, tmp_path: Path) -> None:
    place.publish()
    old, new = (place.blobs.put_folder(python_artefact(tmp_path / kind, kind)) for kind in ("Fickle", "Unloadable"))
    place.route(stable=place.add(old))
    with running(place) as client, Load(client.base_url) as load:
        first = workers()
        replace_artefact(place, old, new)
        until(lambda: 'load_failures_total{project="pets",version="1"} 1.0' in client.get("/metrics").text)
        seen = len(load.replies)
        until(lambda: len(load.replies) > seen + 20)
        assert workers() == first
        replace_artefact(place, new, old)
        until(lambda: not first[0].is_running() and len(workers()) == 1)
    assert set(load.replies) == {(1, None, 200)}


def replace_artefact(place: Place, old: str, new: str) -> None:
    with place.database.begin() as conn:
        place.catalog.replace_artefact(conn, "pets", old, new)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_leaking_model_is_replaced_under_load_and_nobody_notices(place: Place, tmp_path: Path, copies: int) -> None:
    place.publish(limits=Limits(copies=copies, worker_growth_bytes=32 << 20))
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Leaky")))
    with running(place) as client, Load(client.base_url, num_callers=2) as load:
        first = {worker.pid for worker in workers()}
        until(lambda: not first & {worker.pid for worker in workers()})
    assert set(load.replies) == {(1, None, 200)}
