"""A disk that is full, read-only or hung: refused or answered, as chosen; no row acknowledged as logged is missing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter

import httpx
import pytest
from artefacts import graph
from served import Place, metric, predict, process, until

from disks import fill, frozen, image_disk, small_disk, unwritable
from tidemill.stores.segments import Segments


@pytest.fixture
def pets(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    return place


@pytest.fixture
def small(pets):
    """The same, its segments on a disk of 4 MB."""
    with small_disk(pets.home.segments, 4 << 20):
        yield pets


@pytest.fixture
def slow(pets, tmp_path):
    """The same, its segments on a disk of their own that a test can hang."""
    with image_disk(pets.home.segments, tmp_path / "disk.img"):
        yield pets


class Caller:
    """A caller who remembers what was said: ids answered as logged, answered as not logged, and statuses."""

    def __init__(self, address: str) -> None:
        self.logged: list[str] = []
        self.unlogged: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(address,))
        self._thread.start()

    def _ask(self, address: str) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            while not self._stop.is_set():
                reply = predict(client)
                self.statuses[reply.status_code] += 1
                if reply.status_code == 200:
                    told = reply.json()
                    (self.logged if told.get("logged", True) else self.unlogged).append(told["request_id"])

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(40)


@contextlib.contextmanager
def called(address: str):
    callers = [Caller(address) for _ in range(2)]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.stop()


def logged_ids(place: Place) -> Counter[str]:
    return Counter(row.request_id for row in place.rows()[0])


def assert_logged_once(place: Place, callers: list[Caller]) -> None:
    found = logged_ids(place)
    for caller in callers:
        assert {found[id_] for id_ in caller.logged} == {1}
        assert not any(found[id_] for id_ in caller.unlogged)


def _say(client: httpx.Client, request_id: str) -> int:
    return client.post("/v1/feedback", json={"request_id": request_id, "label": "cat"}).status_code


def ready(client: httpx.Client) -> dict:
    return client.get("/v2/health/ready").json()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_on_a_full_disk_predictions_are_refused_until_there_is_room_and_no_acknowledged_row_is_missing(
    small, durability
):
    with process(small, durability=durability) as (_, address), httpx.Client(base_url=address, timeout=30) as client:
        with called(address) as callers:
            until(lambda: all(len(c.logged) > 50 for c in callers))
            with fill(small.home.segments):
                until(lambda: all(c.statuses[503] > 50 for c in callers))
                assert "No space left" in ready(client)["problems"][0]
                assert ready(client)["log"]["writable"] is False
                assert metric(client.get("/metrics").text, "tidemill_log_failures_total") > 50
                until(lambda: metric(client.get("/metrics").text, "tidemill_log_writable") == 0)
            until(lambda: ready(client)["ready"])  # by itself
            before = [len(c.logged) for c in callers]
            until(lambda: all(len(c.logged) > n + 50 for c, n in zip(callers, before, strict=True)))
        assert not any(c.unlogged for c in callers)
    assert_logged_once(small, callers)


def test_told_to_answer_it_answers_on_a_full_disk_says_that_it_did_not_log_and_takes_no_feedback(small):
    with process(small, on_log_failure="answer") as (_, address), httpx.Client(base_url=address) as client:
        with called(address) as callers:
            until(lambda: all(len(c.logged) > 50 for c in callers))
            with fill(small.home.segments):
                until(lambda: all(len(c.unlogged) > 50 for c in callers))
                said = [_say(client, callers[0].logged[i]) for i in range(30)]
                assert 503 in said
                health = until(lambda: (told := ready(client))["warnings"] and told)
                assert (health["ready"], "No space left" in health["warnings"][0]) == (True, True)
                assert (health["log"]["writable"], health["log"]["on_failure"]) == (False, "answer")
                until(lambda: ready(client)["log"]["unlogged"] > 100)
            until(lambda: ready(client)["log"]["writable"])
            told = metric(client.get("/metrics").text, 'tidemill_unlogged_total{project="pets"}')
        assert set().union(*(c.statuses for c in callers)) == {200}
        assert told == sum(len(c.unlogged) for c in callers)
    assert_logged_once(small, callers)
    assert len(small.rows()[1]) == said.count(202), "the last bytes of a page may still take one"


@pytest.mark.parametrize("on_log_failure", ["refuse", "answer"])
def test_a_gateway_that_starts_on_a_full_disk_does_as_it_was_told_and_logs_as_soon_as_it_can(small, on_log_failure):
    with contextlib.ExitStack() as full:
        full.enter_context(fill(small.home.segments))
        started = process(small, on_log_failure=on_log_failure)
        with started as (_, address), httpx.Client(base_url=address) as client, called(address) as callers:
            wanted = 503 if on_log_failure == "refuse" else 200
            until(lambda: all(c.statuses[wanted] > 20 for c in callers))
            assert not any(c.logged for c in callers)
            assert "No space left" in ready(client)["log"]["problem"]
            full.close()
            until(lambda: all(len(c.logged) > 20 for c in callers))
        assert_logged_once(small, callers)
    lows = [s.low_at for s in Segments(small.home.segments).present()]
    assert min(row.received_at for row in small.rows()[0]) >= min(lows), "or readers would have gone past it"


def test_what_is_made_read_only_refuses_and_goes_on_when_it_is_writable_again(pets):
    with process(pets, segment_age_s=60.0) as (_, address), httpx.Client(base_url=address) as client:
        first = predict(client).json()["request_id"]
        (segment,) = Segments(pets.home.segments).present()
        with unwritable(segment.path):
            assert predict(client).status_code == 503
            assert "not permitted" in ready(client)["problems"][0]
        until(lambda: ready(client)["ready"])
        second = predict(client).json()["request_id"]
    assert logged_ids(pets) == {first: 1, second: 1}


def test_a_folder_that_takes_no_new_file_stops_no_prediction_and_is_told(pets):
    with process(pets) as (_, address), httpx.Client(base_url=address) as client:
        ids = [predict(client).json()["request_id"]]
        with unwritable(pets.home.segments):
            ids.append(predict(client).json()["request_id"])
            until(lambda: ready(client)["warnings"])
            health = ready(client)
            assert (health["ready"], health["log"]["writable"]) == (True, True)
            assert "the loop does not see it" in health["log"]["problem"]
            ids.append(predict(client).json()["request_id"])
        until(lambda: not ready(client)["warnings"])
        until(lambda: [s.sealed for s in Segments(pets.home.segments).present()].count(True) >= 1)
    assert logged_ids(pets) == dict.fromkeys(ids, 1)


def test_on_a_disk_that_hangs_a_gateway_told_to_answer_does_after_a_second_at_most(slow):
    with process(slow, on_log_failure="answer") as (_, address), httpx.Client(base_url=address, timeout=30) as client:
        logged = predict(client).json()["request_id"]
        with frozen(slow.home.segments):
            begun = time.monotonic()
            replies = [predict(client).json() for _ in range(30)]
            assert time.monotonic() - begun < 5
            assert [reply.get("logged", True) for reply in replies] == [False] * 30
            assert "the disk has been at one write" in ready(client)["warnings"][0]
            assert client.post("/v1/feedback", json={"request_id": logged, "label": "cat"}).status_code == 503
        until(lambda: ready(client)["log"]["writable"])
        later = predict(client).json()
        assert "logged" not in later
    found = logged_ids(slow)
    assert (found[logged], found[later["request_id"]], max(found.values())) == (1, 1, 1)


def test_on_a_disk_that_hangs_a_synced_log_refuses_and_health_still_answers(slow):
    with process(slow, durability="power") as (_, address), httpx.Client(base_url=address, timeout=30) as client:
        logged = [predict(client).json()["request_id"]]
        with frozen(slow.home.segments):
            begun = time.monotonic()
            assert [predict(client).status_code for _ in range(30)] == [503] * 30
            assert time.monotonic() - begun < 5
            assert "the disk has been at one write" in ready(client)["problems"][0]
        until(lambda: ready(client)["ready"])
        logged.append(predict(client).json()["request_id"])
    found = logged_ids(slow)
    assert [found[id_] for id_ in logged] == [1, 1]
