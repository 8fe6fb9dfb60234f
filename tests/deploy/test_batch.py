"""A batch prediction gives every row once, in order, by one version; and says what it left out."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text
from tables_of_waves import check_output, make_home, run, scores_of, waves

from tidemill.clock import SystemClock
from tidemill.deploy.batch import Done, predict_table
from tidemill.deploy.order import Order, num_cores
from tidemill.deploy.pace import Pace, num_jobs, num_threads
from tidemill.errors import Conflict, InvalidInput, NotFound, ProjectError, StoreError
from tidemill.policy import Policy
from tidemill.stores.addresses import read_place
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home
from tidemill.stores.sources import open_source

MADE = ["decision", "abstained", "scores", "version", "predicted_at", "policy_version"]


def parquet(folder: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, folder / "in.parquet", **options)
    return folder / "in.parquet"


@pytest.mark.parametrize(("jobs", "num_rows"), [(None, 1000), (1, 1000), (3, 1000), (1, 1), (1, 0), (2, 64)])
def test_parquet(home: Home, tmp_path: Path, jobs: int | None, num_rows: int) -> None:
    table = waves(num_rows)
    source = parquet(tmp_path, table, row_group_size=77)
    done = run(home, source, tmp_path / "out.parquet", jobs=jobs, part_rows=64, batch_rows=50)
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.column_names == ["id", *MADE]
    check_output(made, table)
    assert (done.num_rows, done.num_refused, done.version, done.fraction) == (num_rows, 0, 1, 1.0)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["in.parquet", "out.parquet"]
    assert list((home.runs / "waves").iterdir()) == []


def test_hands_share_the_cores_unless_the_project_says_how_many_threads(tmp_path: Path) -> None:
    source = open_source(read_place(str(parquet(tmp_path, waves(10)))))
    pace = Pace(batch_rows=1, part_rows=1, row_s=1e3, row_bytes=1.0)
    cores = num_cores()
    assert [num_threads(None, None), num_threads(None, 1), num_threads(None, 1000), num_threads(3, 2)] == [
        1,
        cores,
        1,
        3,
    ]
    assert [num_jobs(source, pace, done=0, threads=n) for n in (1, cores, 1000)] == [cores, 1, 1]


def test_a_version_may_be_named(home: Home, tmp_path: Path) -> None:
    table = waves(50)
    run(home, parquet(tmp_path, table), tmp_path / "out.parquet", version=2)
    check_output(pq.read_table(tmp_path / "out.parquet"), table, version=2)
    with pytest.raises(StoreError, match="no version 3"):
        run(home, tmp_path / "in.parquet", tmp_path / "other.parquet", version=3)


def test_the_policy_in_force_decides(tmp_path: Path) -> None:
    home, table = make_home(tmp_path, policy=Policy(abstain_below=0.9, top=2)), waves(100)
    run(home, parquet(tmp_path, table), tmp_path / "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    sure = scores_of(table).max(axis=1)
    assert made["abstained"].to_pylist() == (sure < 0.9).tolist()
    assert [row[0] for row in made["top_k"].to_pylist()] == made["decision"].to_pylist()
    assert set(made["policy_version"].to_pylist()) == {1}


def test_csv_in_and_out(home: Home, tmp_path: Path) -> None:
    table = waves(200)
    shapes = [base64.b64encode(np.array(v, "<f4").tobytes()).decode() for v in table["shape"].to_pylist()]
    flat = table.set_column(2, "shape", pa.array(shapes)).append_column("note", pa.array(['a "b",\nc'] * 200))
    pa_csv.write_csv(flat, tmp_path / "in.csv")
    run(home, tmp_path / "in.csv", tmp_path / "out.csv", part_rows=30, keep=("note", "id"))
    made = pl.read_csv(tmp_path / "out.csv")
    assert made.columns == ["note", "id", *MADE]
    check_output(made, table)
    assert set(made["note"]) == {'a "b",\nc'}


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_bad_rows_stop_the_job_or_are_left_out_with_reasons(home: Home, tmp_path: Path, jobs: int | None) -> None:
    table = waves(300)
    heights = [None if i == 3 else 101.0 if i == 150 else h for i, h in enumerate(table["height"].to_pylist())]
    source = parquet(tmp_path, table.set_column(1, "height", pa.array(heights)))
    with pytest.raises(InvalidInput, match=r"^row 3: 'height' is None, not a number\."):
        run(home, source, tmp_path / "out.parquet", jobs=1, part_rows=100)
    assert not (tmp_path / "out.parquet").exists()
    done = run(home, source, tmp_path / "out.parquet", jobs=jobs, part_rows=100, on_bad_row="skip", restart=True)
    assert (done.num_rows, done.num_refused) == (298, 2)
    good = pa.table(pl.from_arrow(table).with_row_index().filter(~pl.col("index").is_in([3, 150])).to_arrow())
    check_output(pq.read_table(tmp_path / "out.parquet"), good)
    refused = pq.read_table(tmp_path / "out.refused.parquet").to_pylist()
    assert [(row["row"], row["id"], row["field"]) for row in refused] == [
        (at, table["id"][at].as_py(), "height") for at in (3, 150)
    ]
    assert refused[1]["reason"].startswith("'height' is 101.0")


def test_a_job_that_stopped_at_a_bad_row_goes_on_without_such_rows(home: Home, tmp_path: Path) -> None:
    table = waves(300)
    heights = [None if i == 250 else h for i, h in enumerate(table["height"].to_pylist())]
    source, out = parquet(tmp_path, table.set_column(1, "height", pa.array(heights))), tmp_path / "out.parquet"
    with pytest.raises(InvalidInput, match="row 250") as stopped:
        run(home, source, out, jobs=1, part_rows=100)
    assert "--on-bad-row skip" in stopped.value.hint
    done = run(home, source, out, jobs=1, part_rows=100, on_bad_row="skip")
    assert (done.num_before, done.num_rows, done.num_refused) == (200, 299, 1)


def test_lines_that_are_no_rows_are_refused_too(home: Home, tmp_path: Path) -> None:
    shape = "AAAAAAAAAAAAAAAA"
    lines = [
        "id,height,shape,beach",
        f"0,1,{shape},north",
        "1,2",
        f"2,x,{shape},north",
        f"3,4,{shape},south,5",
        f"4,5,{shape},south",
    ]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match="row 1: the line has 2 cells, not 4"):
        run(home, tmp_path / "in.csv", tmp_path / "out.csv")
    run(home, tmp_path / "in.csv", tmp_path / "out.csv", on_bad_row="skip", restart=True, part_rows=2)
    assert pl.read_csv(tmp_path / "out.csv")["id"].to_list() == [0, 4]
    refused = pl.read_csv(tmp_path / "out.refused.csv")
    assert refused["row"].to_list() == [1, 2, 3]
    assert refused["reason"].to_list() == [
        "the line has 2 cells, not 4", "'height' is 'x', not a number.", "the line has 5 cells, not 4",
    ]  # fmt: skip


def test_when_nothing_is_kept_rows_have_numbers(home: Home, tmp_path: Path) -> None:
    run(home, parquet(tmp_path, waves(150).drop_columns(["id"])), tmp_path / "out.parquet", part_rows=40)
    assert pq.read_table(tmp_path / "out.parquet")["row"].to_pylist() == list(range(150))


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (lambda t: t.drop_columns(["height"]), {}, "no column 'height'"),
        (lambda t: t.rename_columns(["version", *t.column_names[1:]]), {}, "name of a predicted one"),
        (lambda t: t, {"keep": ("no",)}, "no column 'no'"),
    ],
)
def test_a_table_that_cannot_be_predicted_is_refused_at_once(
    home: Home, tmp_path: Path, change: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ProjectError, match=told):
        run(home, parquet(tmp_path, change(waves(10))), tmp_path / "out.parquet", **options)


def test_an_output_that_is_there_gives_way_only_when_told(home: Home, tmp_path: Path) -> None:
    source = parquet(tmp_path, waves(10))
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(Conflict, match="there already"):
        run(home, source, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "mine"
    run(home, source, tmp_path / "out.parquet", replace=True)
    check_output(pq.read_table(tmp_path / "out.parquet"), waves(10))


def test_what_was_refused_before_does_not_stay_beside_a_new_output(home: Home, tmp_path: Path) -> None:
    bad = waves(10).set_column(1, "height", pa.array([-1.0] + [1.0] * 9))
    run(home, parquet(tmp_path, bad), tmp_path / "out.parquet", on_bad_row="skip")
    assert (tmp_path / "out.refused.parquet").exists()
    run(home, parquet(tmp_path, waves(10)), tmp_path / "out.parquet", replace=True)
    assert not (tmp_path / "out.refused.parquet").exists()


def test_progress_goes_up_and_tells_the_time_left(home: Home, tmp_path: Path) -> None:
    told: list[Done] = []
    run(home, parquet(tmp_path, waves(5_000)), tmp_path / "out.parquet", part_rows=500, batch_rows=1, tell=told.append)
    assert told[-1].fraction == 1.0 and told[-1].num_rows == 5_000
    assert [one.fraction for one in told] == sorted(one.fraction for one in told)


# ---- SQL


def fill(url: str, table: pa.Table) -> None:
    columns = "id BIGINT PRIMARY KEY, height DOUBLE PRECISION, shape {}, beach TEXT, note TEXT, seen TIMESTAMP"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    binary = "BLOB" if engine.dialect.name == "sqlite" else "BYTEA"
    rows = [
        {
            **row,
            "shape": np.array(row["shape"], "<f4").tobytes(),
            "note": "x",
            "seen": "2026-01-02 03:04:05",
        }
        for row in table.to_pylist()
    ]
    with engine.begin() as conn:
        conn.execute(text(f"CREATE TABLE waves ({columns.format(binary)})"))
        conn.execute(text("INSERT INTO waves VALUES (:id, :height, :shape, :beach, :note, :seen)"), rows)
    engine.dispose()


def rows_of(url: str, query: str) -> list[dict[str, Any]]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as conn:
        found = [dict(row) for row in conn.execute(text(query)).mappings()]
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of somebody's database."""
    return (
        f"sqlite:///{tmp_path}/shop.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    )


def test_tables_of_sql(home: Home, tmp_path: Path, shop: str) -> None:
    table = waves(500).sort_by("id")
    fill(shop, table)
    done = run(home, f"{shop}#waves", f"{shop}#scores", part_rows=99, jobs=2)
    assert done.num_rows == 500
    made = rows_of(shop, "SELECT * FROM scores ORDER BY id")
    assert list(made[0]) == ["id", "note", "seen", *MADE]
    check_output(pa.Table.from_pylist(made), table)
    with pytest.raises(Conflict, match="there already"):
        run(home, f"{shop}#waves", f"{shop}#scores")
    run(home, f"{shop}#waves", f"{shop}#scores", replace=True, version=2)
    check_output(pa.Table.from_pylist(rows_of(shop, "SELECT * FROM scores ORDER BY id")), table, version=2)


def test_bad_rows_of_sql(home: Home, tmp_path: Path) -> None:
    url, table = f"sqlite:///{tmp_path}/shop.db", waves(20).sort_by("id")
    fill(url, table)
    with sqlite3.connect(tmp_path / "shop.db") as conn:
        conn.execute("UPDATE waves SET height = 'high' WHERE id = 7")  # SQLite takes anything anywhere
    conn.close()
    run(home, f"{url}#waves", f"{url}#scores", on_bad_row="skip")
    assert len(rows_of(url, "SELECT * FROM scores")) == 19
    (refused,) = rows_of(url, "SELECT * FROM scores_refused")
    assert (refused["row"], refused["id"], refused["field"]) == (7, 7, "height")


def test_sql_to_a_file_and_back(home: Home, tmp_path: Path) -> None:
    url, table = f"sqlite:///{tmp_path}/shop.db", waves(40).sort_by("id")
    fill(url, table)
    run(home, f"{url}#waves", tmp_path / "out.parquet")
    check_output(pq.read_table(tmp_path / "out.parquet"), table)
    run(home, parquet(tmp_path, table), f"{url}#scores")
    check_output(pa.Table.from_pylist(rows_of(url, "SELECT * FROM scores ORDER BY id")), table)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("data.xlsx", "no Parquet or CSV file"),
        ("sqlite:///x.db", "names no table"),
        ("no-url://u:secret@h/x", "names no table"),
        ("://#t", "is not a database URL"),
    ],
)
def test_a_place_that_is_none_is_refused_without_its_password(where: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told) as error:
        read_place(where)
    assert "secret" not in str(error.value)


def test_a_password_is_never_written(home: Home, tmp_path: Path) -> None:
    place = read_place("postgresql://ann:secret@localhost:1/shop#waves")
    assert "secret" not in str(place) and "secret" in place.url
    with pytest.raises(StoreError, match="failed") as error:
        run(home, place.url + "#waves", tmp_path / "out.parquet")
    assert "secret" not in str(error.value)
    assert not any(b"secret" in p.read_bytes() for p in home.runs.rglob("*") if p.is_file())


def test_no_version_no_prediction(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    with Database.open(home.db_url) as database, database.begin() as conn:
        manifest = json.loads(json.dumps(Catalog(database).manifest("waves")))
        Catalog(database).publish(conn, {**manifest, "project": "new"}, {}, file="", now=SystemClock().now())
    order = Order(source=read_place(str(parquet(tmp_path, waves(1)))), to=read_place(str(tmp_path / "o.parquet")))
    with Database.open(home.db_url) as database, pytest.raises(NotFound, match="no version yet"):
        predict_table(order, project="new", home=home, catalog=Catalog(database), clock=SystemClock(), tell=print)
