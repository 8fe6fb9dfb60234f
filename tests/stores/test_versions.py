"""A dataset version is found by number, tag, digest and the beginning of one; a tag means one version until moved."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dataset_pool import Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import Conflict, NotFound, StoreError
from tidemill.stores.database import Database


@pytest.fixture
def pool(tmp_path: Path, database: Database, noon: datetime) -> Pool:
    """Three versions."""
    pool = Pool(database, tmp_path, noon)
    pool.fill(20)
    for number in range(3):
        pool.form(pool.ids("train")[number:])
    return pool


def tag(pool: Pool, name: str, digest: str, *, project: str = "p", move: bool = False) -> None:
    with pool.db.begin() as conn:
        pool.datasets.tag(conn, project, name, digest, now=pool.now, move=move)


def test_a_version_is_found_by_every_name_it_has(pool: Pool) -> None:
    first, second, third = pool.datasets.all("p")
    tag(pool, "golden", second.digest)
    for ref in (2, "2", "golden", second.digest, second.digest[:10]):
        assert pool.datasets.resolve("p", ref) == second
    assert pool.datasets.resolve("p", 1) == first
    assert pool.datasets.resolve("p", 3) == third


@pytest.mark.parametrize("ref", ["4", 0, -1, "silver", "", "f" * 64, "abc"])
def test_what_names_no_version_is_not_found_and_those_that_are_there_are_named(pool: Pool, ref: str | int) -> None:
    tag(pool, "golden", pool.datasets.all("p")[0].digest)
    with pytest.raises(NotFound, match=f"no dataset '{ref}'") as caught:
        pool.datasets.resolve("p", ref)
    assert "1 to 3" in caught.value.hint and "golden" in caught.value.hint
    with pytest.raises(NotFound):
        pool.datasets.resolve("q", 1)


def test_a_beginning_that_two_digests_share_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = pool.datasets.all("p")
    twins = [vars(one) | {"digest": "abcd" + "0" * 60}, vars(two) | {"digest": "abcd" + "1" * 60}]
    monkeypatch.setattr(pool.datasets, "all", lambda _: [type(one)(**twin) for twin in twins])
    with pytest.raises(StoreError, match="2 datasets of 'p' begin with 'abcd'"):
        pool.datasets.resolve("p", "abcd")
    assert pool.datasets.resolve("p", "abcd0").number == 1


def test_a_tag_is_moved_only_when_asked_to(pool: Pool) -> None:
    one, two, _ = pool.datasets.all("p")
    tag(pool, "golden", one.digest)
    tag(pool, "golden", one.digest)
    with pytest.raises(Conflict, match=f"'golden' is on dataset {one.digest[:12]}"):
        tag(pool, "golden", two.digest)
    assert pool.datasets.tags("p") == {"golden": one.digest}
    tag(pool, "golden", two.digest, move=True)
    tag(pool, "also", two.digest)
    assert pool.datasets.tags("p") == {"also": two.digest, "golden": two.digest}
    assert pool.datasets.tags("q") == {}


def test_a_tag_taken_away_leaves_the_version(pool: Pool) -> None:
    one, *_ = pool.datasets.all("p")
    tag(pool, "golden", one.digest)
    with pool.db.begin() as conn:
        pool.datasets.untag(conn, "p", "golden")
    assert pool.datasets.tags("p") == {}
    assert pool.datasets.resolve("p", 1) == one
    with pytest.raises(NotFound, match="no tag 'golden'"), pool.db.begin() as conn:
        pool.datasets.untag(conn, "p", "golden")


def test_only_a_version_that_is_there_can_be_tagged(pool: Pool) -> None:
    for project, digest in (("p", "f" * 64), ("q", pool.datasets.all("p")[0].digest)):
        with pytest.raises(StoreError, match="no dataset"):
            tag(pool, "golden", digest, project=project)


@pytest.mark.parametrize("name", ["", "1", "12ab", "cafe", "deadbeef", "Golden", "a b", "a" * 101, "x/y"])
def test_a_name_that_could_be_taken_for_something_else_is_no_tag(pool: Pool, name: str) -> None:
    with pytest.raises(StoreError, match="is no tag"):
        tag(pool, name, pool.datasets.all("p")[0].digest)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True))
def test_no_tag_ever_hides_a_number_or_a_digest(pool: Pool, name: str) -> None:
    one, two, _ = pool.datasets.all("p")
    try:
        tag(pool, name, two.digest, move=True)
    except StoreError:
        return
    assert pool.datasets.resolve("p", name) == two
    assert pool.datasets.resolve("p", one.digest[:4]) == one
    assert pool.datasets.resolve("p", "1") == one


def test_versions_are_listed_in_the_order_they_were_formed(pool: Pool) -> None:
    pool.form(pool.ids("train")[5:], now=pool.now - timedelta(days=1))
    assert [version.number for version in pool.datasets.all("p")] == [1, 2, 3, 4]
