"""With its catalog in PostgreSQL, a gateway hears of a new route at once, and reads it sooner or later in any case."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from artefacts import graph
from served import Place, predict, running, until


@pytest.fixture
def place(tmp_path: Path, postgres_url: str) -> Iterator[Place]:
    """A home whose catalog is in PostgreSQL, with two versions of which the first is in traffic."""
    made = Place(tmp_path, postgres_url)
    made.publish()
    made.route(stable=made.add(graph(1)))
    made.add(graph(2))
    yield made
    made.database.close()


def answers(client: httpx.Client, version: int) -> bool:
    return bool(predict(client).json()["version"] == version)


def test_a_new_route_is_in_force_long_before_the_next_look(place: Place) -> None:
    with running(place, poll_s=60) as client:
        assert answers(client, 1)
        time.sleep(0.5)  # the listener has begun
        began = time.monotonic()
        place.route(stable=2, fallback=1)
        until(lambda: answers(client, 2))
        assert time.monotonic() - began < 10


def test_a_gateway_that_cannot_listen_looks_regularly(place: Place, postgres: Any) -> None:
    with running(place, poll_s=0.2) as client:
        time.sleep(0.5)
        postgres.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        place.route(stable=2, fallback=1)  # while nobody listens
        until(lambda: answers(client, 2))
