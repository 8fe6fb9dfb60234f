"""A drill rolls live traffic back and forth over real gateways, and says whether the old version answered as it did."""

from __future__ import annotations

import threading

import pytest
from artefacts import graph, inputs
from served import Place, running

from tidemill.errors import NotFound, TidemillError
from tidemill.loop.controls import Controls
from tidemill.loop.drill import drill


@pytest.fixture
def deployed(tmp_path) -> Place:
    """Version 2 is live, and version 1 was before it."""
    place = Place(tmp_path)
    place.publish()
    first = place.add(graph(1))
    second = place.add(graph(2))
    place.route(stable=first)
    place.route(stable=second, fallback=first)
    return place


def controls(place: Place) -> Controls:
    return Controls.of_home(place.home.folder, "pets", database=place.url)


def test_the_version_before_answers_at_once_as_it_did_and_the_route_returns(deployed: Place) -> None:
    with running(deployed) as one, running(deployed) as two:
        opened = controls(deployed)
        before, seen, stop = opened.route(), [], threading.Event()

        def user() -> None:
            while not stop.is_set():
                seen.append(one.post("/v1/predict", json={"inputs": inputs(), "unit": "ann"}).status_code)

        asking = threading.Thread(target=user)
        asking.start()
        done = drill(opened, deployed.blobs, [str(one.base_url), str(two.base_url)], by="ann")
        stop.set()
        asking.join()
        assert done.passed, done
        assert (done.live, done.back_to, done.gateways, done.mixed) == (2, 1, 2, 0)
        after = opened.route()
        assert (after.stable, after.fallback, after.revision) == (before.stable, before.fallback, before.revision + 2)
        assert set(seen) == {200}
        kept = opened.journal.verdicts("pets", limit=1)[0]
        assert (kept.step, kept.verdict.by) == ("drill", "drill")
        assert "rolled back from version 2 to 1" in kept.verdict.reason
        opened.close()


def test_a_gateway_that_does_not_answer_keeps_the_drill_from_beginning(deployed: Place) -> None:
    opened = controls(deployed)
    before = opened.route()
    with pytest.raises(TidemillError, match="no gateway answers at"):
        drill(opened, deployed.blobs, ["http://127.0.0.1:9"], by="ann")
    assert opened.route() == before
    opened.close()


def test_without_a_version_before_there_is_nothing_to_rehearse(deployed: Place) -> None:
    deployed.route(stable=2)
    opened = controls(deployed)
    with pytest.raises(NotFound, match="version 2 has no version before it"):
        drill(opened, deployed.blobs, ["http://127.0.0.1:9"], by="ann")
    opened.close()
