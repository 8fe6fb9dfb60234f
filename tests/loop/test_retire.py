"""Versions older than the newest that a project keeps lose their files, and nothing that somebody may still ask for."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from harness import CALM_S, START, Harness
from sqlalchemy import Connection, text

from tidemill.errors import ProjectError, StoreError
from tidemill.loop.retire import retire
from tidemill.loop.world import Turn
from tidemill.project import load_project
from tidemill.records import ModelVersion, Outcome, Route, Verdict
from tidemill.stores.blobs import Blobs
from tidemill.stores.database import Database

KEPT = {'unit="user"': 'unit="user", keep_versions=2'}
KILLED = 77
NOW = START + timedelta(seconds=CALM_S)
_CONTEXT = multiprocessing.get_context("forkserver")


def grown(h: Harness, versions: int = 6) -> Harness:
    """Add versions, each with an artefact and a dataset of its own; 1 is live."""
    w = h.app.world
    ids = (
        w.reservoir.index("waves").filter((pl.col("split") == "train") & pl.col("label").is_not_null())["id"].to_list()
    )
    for version in range(2, versions + 1):
        work = h.folder / "artefact"
        shutil.copytree(w.blobs.folder(w.catalog.model("waves", 1).artefact), work, copy_function=shutil.copyfile)
        (work / "number").write_text(str(version))
        artefact = w.blobs.put_folder(work)
        shutil.rmtree(work)
        with w.db.begin() as conn:
            formed = w.datasets.form(
                conn, "waves", ids=ids[:-version], weights=[1.0] * len(ids[:-version]), formed_by="test", parent=None,
                schema=h.app.project.schema, now=h.clock.now(),
            )  # fmt: skip
            model = ModelVersion(
                version=0, artefact=artefact, created_at=h.clock.now(), dataset=formed.digest, strategy="s",
                parent=None, cycle=None, run=f"made-{version}",
            )  # fmt: skip
            assert w.catalog.add_model(conn, "waves", model) == version
    return h


def turn(h: Harness, times: int = 4) -> None:
    engine = h.app.engine()
    for _ in range(times):
        engine.turn()
    engine.let_go()


def kept(h: Harness) -> tuple[list[int], list[int]]:
    """Return the versions and the datasets that have their files, as the disk tells."""
    w = h.app.world
    blobs = w.blobs.stored()
    models = [m for m in w.catalog.models("waves") if m.artefact in blobs]
    assert all((m.retired_at is None) == (m in models) for m in w.catalog.models("waves"))
    datasets = []
    for version in w.datasets.all("waves"):
        if (w.home.datasets / "waves" / f"{version.digest}.json").exists():
            shards = w.datasets.shards("waves", version.digest)
            assert all(w.datasets.chunks("waves").path(one).exists() for one in (*shards.train, *shards.test))
            datasets.append(version.number)
        else:
            assert version.retired_at is not None
    named = {m.artefact for m in models}
    assert set(blobs) == named, "and no blob that nobody names"
    return [m.version for m in models], datasets


def test_the_newest_stay_and_the_live_one_and_the_rest_is_a_record(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT))
    w = h.app.world
    before = [(m.version, m.artefact, m.dataset) for m in w.catalog.models("waves")]
    turn(h)
    assert kept(h) == ([1, 5, 6], [1, 5, 6])
    assert [(m.version, m.artefact, m.dataset) for m in w.catalog.models("waves")] == before
    assert w.catalog.report("waves", 1) is not None
    (verdict,) = h.verdicts("retire")
    assert verdict.reason.endswith("versions older than the newest 2 deleted; their records stay")
    assert verdict.numbers["num_bytes"] > 1000
    assert h.app.status().trouble == {}
    loaded = w.load(w.catalog.artefact("waves", 1))
    loaded.close()


def test_without_a_number_all_stay(harness: Callable[..., Harness]) -> None:
    h = grown(harness())
    turn(h)
    assert kept(h) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])


def set_route(h: Harness, **changes: Any) -> None:
    route = h.route
    new = Route(**{**vars(route), **changes})
    with h.app.world.db.begin() as conn:
        h.app.world.catalog.set_route(conn, "waves", new, now=h.clock.now(), by="test", reason="test")


def test_what_traffic_may_need_stays(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT), versions=9)
    set_route(h, stable=2, fallback=3, candidate=4, share=0.1, rollout="r", shadows=(5,))
    turn(h)
    assert kept(h)[0] == [1, 2, 3, 4, 5, 8, 9], "1 was live before"


def test_what_an_open_cycle_a_batch_or_a_waiting_word_needs_stays(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT), versions=8)
    w = h.app.world
    fire = Verdict(outcome=Outcome.FIRE, by="test", reason="test")
    with w.db.begin() as conn:
        number = w.journal.open_cycle(conn, "waves", trigger=fire, strategy="s", step="test", now=h.clock.now())
        w.journal.move(conn, "waves", number, candidate=2, dataset=w.catalog.model("waves", 2).dataset)
        w.journal.record(conn, "waves", number, "train.plan", {"seed": 1, "parent": 3}, h.clock.now())
        w.journal.send(conn, "waves", "approve", {"version": 4}, by="ann", now=h.clock.now())
    folder = w.workdir("batch-out-0123")
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"about": {"version": 5}, "part_rows": 1, "batch_rows": 1}))
    lease = w.journal.acquire("loop/waves", "test", now=h.clock.now(), ttl=timedelta(hours=1))
    now = Turn(world=w, lease=lease, now=h.clock.now(), known_until=h.clock.now())
    for _ in range(4):
        retire(now)
    assert kept(h)[0] == [1, 2, 3, 4, 5, 7, 8]


def test_a_tagged_dataset_stays(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT))
    w = h.app.world
    with w.db.begin() as conn:
        w.datasets.tag(conn, "waves", "golden", w.datasets.resolve("waves", 3).digest, now=h.clock.now())
    turn(h)
    assert kept(h) == ([1, 5, 6], [1, 3, 5, 6])


def test_an_artefact_that_a_kept_version_shares_stays(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT))
    w = h.app.world
    with w.db.begin() as conn:
        conn.execute(
            text("UPDATE models SET artefact = (SELECT artefact FROM models WHERE version = 2) WHERE version = 6")
        )
    turn(h)
    shared = w.catalog.model("waves", 2)
    assert shared.retired_at is not None
    assert shared.artefact == w.catalog.model("waves", 6).artefact
    assert w.blobs.folder(shared.artefact).is_dir()


def test_whoever_asks_for_one_that_is_gone_is_told_so(harness: Callable[..., Harness], tmp_path: Path) -> None:
    h = grown(harness(edit=KEPT))
    turn(h)
    gone = "the artefact of version 3 of 'waves' was deleted on 2026-01-01"
    with pytest.raises(StoreError, match=gone):
        h.app.promote_now(3, by="ann", reason="")
    with pytest.raises(StoreError, match=gone):
        set_route(h, stable=3)
    with pytest.raises(StoreError, match=gone):
        h.app.skew(version=3)
    with pytest.raises(
        StoreError, match=r"dataset 3 of 'waves' was retired on 2026-01-01: the project keeps the newest"
    ):
        h.app.world.datasets.contents("waves", h.app.world.datasets.resolve("waves", 3).digest)
    h.app.ask("promote", by="ann", version=3)
    turn(h, 1)
    (answer,) = h.app.journal.commands("waves")
    assert answer.result == "refused: the artefact of version 3 was deleted: keep_versions is 2"


def test_a_dataset_that_is_formed_again_is_there_again(harness: Callable[..., Harness]) -> None:
    h = grown(harness(edit=KEPT))
    w = h.app.world
    ids = w.datasets.train_rows("waves", w.datasets.resolve("waves", 3).digest)["id"].to_list()
    turn(h)
    with w.db.begin() as conn:
        again = w.datasets.form(
            conn, "waves", ids=ids, weights=[1.0] * len(ids), formed_by="test", parent=None,
            schema=h.app.project.schema, now=h.clock.now(),
        )  # fmt: skip
    assert (again.number, again.is_gone) == (3, False)
    assert w.datasets.train_rows("waves", again.digest)["id"].to_list() == ids


@pytest.mark.parametrize("edit", [KEPT, {}], ids=["the newest", "all"])
def test_what_nobody_names_goes_but_for_what_a_finished_training_has_made(
    harness: Callable[..., Harness], edit: dict[str, str]
) -> None:
    h = grown(harness(edit=edit), versions=3)
    w = h.app.world
    lone = {}
    for name in ("waiting", "lost", "young"):
        (h.folder / "made").mkdir()
        (h.folder / "made" / "weights").write_text(name)
        lone[name] = w.blobs.put_folder(h.folder / "made")
        shutil.rmtree(h.folder / "made")
    for name in ("waiting", "lost"):
        os.utime(w.home.blobs / lone[name], (0, 0))
    with w.db.begin() as conn:
        w.catalog.start_run(conn, "waves", "cycle-9-attempt-1", None, {}, h.clock.now())
    w.workdir("cycle-9-attempt-1").mkdir(parents=True)
    (w.workdir("cycle-9-attempt-1") / "result.json").write_text(json.dumps({"artefact": lone["waiting"]}))
    h.clock.sleep(86_401)
    turn(h)
    assert {name for name, digest in lone.items() if digest in w.blobs.stored()} == {"waiting", "young"}


def test_others_write_while_files_are_deleted(harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch) -> None:
    h = grown(harness(edit=KEPT))
    remove, written = Blobs.remove, []

    def removing(blobs: Blobs, digest: str) -> int:
        with closing(sqlite3.connect(h.folder / "home" / "tidemill.db", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        written.append(digest)
        return remove(blobs, digest)

    monkeypatch.setattr(Blobs, "remove", removing)
    turn(h)
    assert len(written) == 3
    assert kept(h) == ([1, 5, 6], [1, 5, 6])


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, number: object) -> None:
    file = tmp_path / f"few_{abs(hash(str(number)))}.py"
    file.write_text(
        "import tidemill as tm\nfrom sklearn.linear_model import LogisticRegression\n"
        "project = tm.Project(name='few', inputs={'x': tm.Number()}, output=tm.Classes(['a', 'b']),"
        f" trainer=tm.trainers.Sklearn(LogisticRegression()), keep_versions={number!r})\n"
    )
    with pytest.raises(ProjectError, match="keep_versions is"):
        load_project(str(file))


# --- kills


def retire_and_die(folder: Path, fate: int) -> None:
    """In a child: turn, and end at one of the operations on the disk or the database."""
    h = Harness.open(folder, now=NOW)
    h.forget_leases()
    left, begin = [fate], Database.begin

    def comes() -> bool:
        left[0] -= 1
        return left[0] == 0

    def around(act: Callable[..., Any]) -> Callable[..., Any]:
        def doing(*given: Any, **named: Any) -> Any:
            if comes():
                os._exit(KILLED)
            return act(*given, **named)

        return doing

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        with begin(self) as conn:
            yield conn
            if comes():
                os._exit(KILLED)

    Database.begin = counted  # type: ignore[method-assign]
    for name in ("rename", "unlink", "replace"):
        setattr(Path, name, around(getattr(Path, name)))
    os.unlink, os.rmdir = around(os.unlink), around(os.rmdir)
    turn(h)
    os._exit(0)


def test_killed_between_any_two_steps_what_stays_is_the_same(harness: Callable[..., Harness], tmp_path: Path) -> None:
    h = grown(harness(edit=KEPT))
    h.app.close()
    kills, fate = 0, 2
    while True:
        child = _CONTEXT.Process(target=retire_and_die, args=(h.folder, fate))
        child.start()
        child.join(60)
        assert child.exitcode in (0, KILLED)
        if child.exitcode == 0:
            break
        kills, fate = kills + 1, fate + 5
    assert kills >= 5
    after = Harness.open(h.folder, now=NOW)
    after.forget_leases()
    turn(after)
    assert kept(after) == ([1, 5, 6], [1, 5, 6])
    after.app.close()
