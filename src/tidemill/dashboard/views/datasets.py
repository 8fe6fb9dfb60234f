"""The datasets: every version, what it holds, what changed from another, and which models learnt from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any

import polars as pl
from markupsafe import Markup

from tidemill.app import App
from tidemill.dashboard import svg
from tidemill.dashboard.inputs import PIECE_BYTES, brief, thumbnail, written
from tidemill.dashboard.opening import opening
from tidemill.dashboard.table import Cell, Column, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, View
from tidemill.errors import InvalidInput
from tidemill.monitor.dataset_card import dataset_card
from tidemill.records import DatasetVersion
from tidemill.review.render.svg import bar
from tidemill.schema import Image, Sensitive, Tensor
from tidemill.stores.datasets import DatasetDiff
from tidemill.stores.versions import gone

_NEVER_STALE_S = 30 * 86_400.0  # a version never changes while its rows are there
_NUM_ROWS, _NUM_IDS = 12, 40
_BAR, _BAR_HIGH = 88.0, 10.0
_GONE = (Column(key="state", title="Rows", kind="pill"), Column(key="gone_at", title="Gone since", kind="when"))
_CHANGES = {
    "added": "added", "removed": "removed", "relabelled": "relabelled", "split_changed": "moved to the other split",
}  # fmt: skip


def show(asked: Asked) -> Page:
    """Return the list of versions."""
    line = "for dataset in app.world.datasets.all(app.name):\n    print(dataset.number, dataset.num_train)"
    python = opening(asked.app, line)
    return Page(template="datasets.html", title="Datasets", data={"datasets": datasets_table(asked), "python": python})


def datasets_table(asked: Asked) -> Table:
    """Return a page of versions, the newest first."""
    app = asked.app
    found = app.world.datasets.all(app.name)
    numbers = {d.digest: d.number for d in found}
    tags, models = _tags(app), _models(app)
    most = max((d.num_train + d.num_test for d in found), default=1)
    wanted = asked.word("tag")
    kept = [d for d in reversed(found) if not wanted or wanted in tags[d.digest]]
    first = asked.number("after", 0)
    shown = kept[first : first + asked.limit]
    is_any_gone = any(d.is_gone for d in found)
    return Table(
        name="datasets",
        title="Versions",
        total=len(kept),
        next=str(first + len(shown)) if first + len(shown) < len(kept) else "",
        columns=[
            Column(key="number", title="Version"),
            Column(key="tags", title="Tags"),
            Column(key="at", title="Formed", kind="when"),
            *(_GONE if is_any_gone else ()),
            Column(key="by", title="By", kind="code"),
            Column(key="parent", title="From"),
            Column(key="train", title="Train", kind="count"),
            Column(key="test", title="Test", kind="count"),
            Column(key="size", title="Size", kind="picture"),
            Column(key="models", title="Models"),
            Column(key="digest", title="Digest", kind="code"),
        ],
        rows=[_row(d, numbers, tags[d.digest], models[d.digest], most) for d in shown],
        empty="No dataset yet." if not wanted else f"No dataset is tagged {wanted}.",
        command="tidemill train data.parquet",
    )


def _row(one: DatasetVersion, numbers: Mapping[str, int], tags: list[str], models: list[int], most: int) -> Row:
    parent = numbers.get(one.parent or "")
    cells: dict[str, Cell] = {
        "number": Link(f"dataset {one.number}", f"/datasets/{one.number}"), "tags": ", ".join(tags) or None,
        "at": one.created_at, "by": one.formed_by, "digest": one.digest[:12],
        "state": one.state, "gone_at": one.erased_at or one.retired_at,
        "parent": None if parent is None else Link(f"dataset {parent}", f"/datasets/{parent}"),
        "train": one.num_train, "test": one.num_test,
        "size": _bar({"train": one.num_train, "test": one.num_test}, most, f"Rows of dataset {one.number}"),
        "models": None if not models else Link(", ".join(f"version {v}" for v in models), f"/models/{models[-1]}"),
    }  # fmt: skip
    return Row(key=str(one.number), cells=cells)


def _bar(counts: Mapping[str, int], most: int, title: str) -> Markup:
    """Draw train and test rows as one bar."""
    drawn, at = list[Markup](), 0.0
    for split, num in counts.items():
        long = _BAR * num / max(most, 1)
        drawn.append(
            bar(at, 0, long, _BAR_HIGH, f"{num:,} {split}", class_="bar now" if split == "train" else "bar reference")
        )
        at += long
    told = ", ".join(f"{num:,} {split}" for split, num in counts.items())
    return svg.picture(title, *drawn, width=_BAR, height=_BAR_HIGH, desc=told, class_="small")


def _tags(app: App) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, digest in app.world.datasets.tags(app.name).items():
        found[digest].append(name)
    return found


def _models(app: App) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for model in app.catalog.models(app.name):
        if model.dataset is not None:
            found[model.dataset].append(model.version)
    return found


# --- one version


def one(asked: Asked) -> Page:
    """Return one version; what takes reading its rows comes after the page."""
    app = asked.app
    found = app.world.datasets.all(app.name)
    version = app.world.datasets.resolve(app.name, int(asked.place["number"]))
    other = _other(asked, version, found)
    data = {
        "dataset": version, "state": version.state, "gone": gone(app.name, version).message if version.is_gone else "",
        "others": [d.number for d in reversed(found) if d.number != version.number and not d.is_gone][:200],
        "parent": next((d for d in found if d.digest == version.parent), None),
        "children": [d.number for d in found if d.parent == version.digest],
        "models": _models(app)[version.digest], "tags": _tags(app)[version.digest], "other": other,
        "python": opening(app, f"rows = app.world.datasets.train_rows(app.name, {version.digest!r})"),
    }  # fmt: skip
    return Page(template="dataset.html", title=f"Dataset {version.number}", data=data)


def _other(asked: Asked, version: DatasetVersion, found: list[DatasetVersion]) -> DatasetVersion | None:
    """Return what to compare with: what `?with=` names, or the parent, or the version before, of those kept."""
    wanted = asked.word("with")
    if wanted:
        return asked.app.world.datasets.resolve(asked.app.name, wanted)
    kept = [d for d in found if not d.is_gone]
    parent = next((d for d in kept if d.digest == version.parent), None)
    return parent or next((d for d in reversed(kept) if d.number < version.number), None)


def card_part(asked: Asked) -> Page:
    """Return what a version holds, counted behind the page."""
    app = asked.app
    version = app.world.datasets.resolve(app.name, asked.number("number", 0))
    take = partial(dataset_card, app.world.datasets, app.world.reservoir, app.name, version.digest)
    reading = asked.measured.ask(("datasets.card", *_of(version)), take, fresh_s=_NEVER_STALE_S)
    data: dict[str, Any] = {"reading": reading, "url": asked.link(), "facets": [], "ranges": {}}
    if reading is not None and reading.value is not None:
        card = reading.value
        is_counted = all(isinstance(n, int) for labels in card.contents.labels.values() for n in labels.values())
        facets = {"Trust": card.contents.trusts, "Source of the label": card.sources, "Why it was picked": card.reasons}
        facets = {"Label": card.contents.labels, **facets} if is_counted else facets
        data |= {
            "card": card, "facets": [facet(title, counts) for title, counts in facets.items()],
            "ranges": {} if is_counted else card.contents.labels,
        }  # fmt: skip
    return Page(template="_dataset_card.html", data=data)


def _of(version: DatasetVersion) -> tuple[Hashable, ...]:
    """Return what is never stale of a version: until its rows are gone, and then again."""
    return version.digest, version.erased_at, version.retired_at


def facet(title: str, counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return rows by value and split."""
    values = dict.fromkeys(value for of_split in counts.values() for value in of_split)
    rows = [(str(value), counts["train"].get(value, 0), counts["test"].get(value, 0)) for value in values]
    most = max((train + test for _, train, test in rows), default=1)
    return Table(
        name="", title=title, total=len(rows),
        columns=[
            Column(key="value", title=title), Column(key="train", title="Train", kind="count"),
            Column(key="test", title="Test", kind="count"), Column(key="size", title="", kind="picture"),
        ],
        rows=[
            Row(cells={"value": value, "train": train, "test": test,
                       "size": _bar({"train": train, "test": test}, most, f"{title} {value}")})
            for value, train, test in rows
        ],
    )  # fmt: skip


def rows_part(asked: Asked) -> Page:
    """Return the first rows of a version, as people see them."""
    return Page(template="_dataset_rows.html", data={"rows": rows_table(asked)})


def rows_table(asked: Asked) -> Table:
    """Return the first rows of a version: labels, trust and inputs."""
    app = asked.app
    version = app.world.datasets.resolve(app.name, asked.number("number", 0))
    table = next(iter(app.world.datasets.tables(app.name, version.digest, "train")))
    return _rows_table(asked, pl.DataFrame(table.slice(0, _NUM_ROWS)), version.num_train)


def rows_file(asked: Asked) -> Iterator[Table]:
    """Yield the rows that a version trains on, as few at a time as their inputs are large."""
    app, left = asked.app, asked.limit
    version = app.world.datasets.resolve(app.name, asked.number("number", 0))
    for table in app.world.datasets.tables(app.name, version.digest, "train"):
        num = max(1, PIECE_BYTES * table.num_rows // max(table.nbytes, 1))
        for first in range(0, max(table.num_rows, 1), num):  # without rows, the columns alone
            piece = pl.DataFrame(table.slice(first, min(num, left)))
            yield _rows_table(asked, piece, version.num_train)
            left -= len(piece)
            if left <= 0:
                return


def _rows_table(asked: Asked, frame: pl.DataFrame, total: int) -> Table:
    app = asked.app
    inputs = {name: kind for name, kind in app.project.schema.inputs.items() if name in frame.columns}
    columns = [Column(key="id", title="Example", kind="code"), Column(key="label", title="Label"),
               Column(key="trust", title="Trust"), Column(key="weight", title="Weight", kind="number"),
               *(Column(key=f"input.{name}", title=name, kind="picture" if isinstance(kind, Image) else "text")
                 for name, kind in inputs.items() if not isinstance(kind, Tensor | Sensitive))]  # fmt: skip
    shown = [
        Row(cells={
            "id": row["id"] if asked.is_file else row["id"][:20],
            "label": written(row["label"]) if asked.is_file else brief(row["label"]),
            "trust": row["trust"], "weight": row["weight"],
            **{f"input.{name}": _input(kind, row[name], name, is_file=asked.is_file) for name, kind in inputs.items()},
        })
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    return Table(name="rows", title="Rows", columns=columns, rows=shown, total=total)


def _input(kind: object, value: Any, name: str, *, is_file: bool) -> Cell:
    if is_file:
        return written(value)
    return thumbnail(kind, value, name) if isinstance(kind, Image) else brief(value)


def diff_part(asked: Asked) -> Page:
    """Return how a version differs from another, found behind the page."""
    app = asked.app
    after = app.world.datasets.resolve(app.name, asked.number("number", 0))
    before = app.world.datasets.resolve(app.name, asked.word("with"))
    take = partial(app.world.datasets.diff, app.name, before.digest, after.digest)
    reading = asked.measured.ask(("datasets.diff", *_of(before), *_of(after)), take, fresh_s=_NEVER_STALE_S)
    data = {"reading": reading, "url": asked.link(), "before": before, "after": after, "most": _NUM_IDS,
            "changes": [] if reading is None or reading.value is None else _changes(reading.value)}  # fmt: skip
    return Page(template="_dataset_diff.html", data=data)


def _changes(diff: DatasetDiff) -> list[tuple[str, tuple[str, ...]]]:
    return [(word, getattr(diff, name)) for name, word in _CHANGES.items()]


def diff_table(asked: Asked) -> Table:
    """Return every changed example, for CSV."""
    app = asked.app
    after = app.world.datasets.resolve(app.name, asked.number("number", 0))
    before = app.world.datasets.resolve(app.name, asked.word("with"))
    diff = app.world.datasets.diff(app.name, before.digest, after.digest)
    rows = [Row(cells={"change": word, "id": id_}) for word, ids in _changes(diff) for id_ in ids]
    columns = [Column(key="change", title="Change"), Column(key="id", title="Example")]
    return Table(name="diff", title="Changes", columns=columns, rows=rows, total=len(rows))


# --- tags


def tag(posted: Posted) -> Done:
    """Give a version a name; one that another has is taken from it where `move` is ticked."""
    app, name = posted.app, posted.field("name").strip()
    version = app.world.datasets.resolve(app.name, posted.whole("number"))
    if not name:
        raise InvalidInput("the tag is empty.", "write a name, such as golden", "name")
    with app.db.begin() as conn:
        app.world.datasets.tag(conn, app.name, name, version.digest, now=posted.now, move="move" in posted.form)
    return Done(said=f"Dataset {version.number} is called {name}.")


def untag(posted: Posted) -> Done:
    """Take a name away."""
    name = posted.field("name")
    with posted.app.db.begin() as conn:
        posted.app.world.datasets.untag(conn, posted.app.name, name)
    return Done(said=f"No dataset is called {name} any more.")


def _thing(posted: Posted) -> str:
    return f"{posted.field('name')} on dataset {posted.field('number')}"


VIEW = View(
    path="/datasets", name="Datasets", group="Models", icon="datasets", show=show, pages={"/{number:int}": one},
    fragments={
        "card": Fragment(show=card_part), "rows": Fragment(show=rows_part), "diff": Fragment(show=diff_part),
    },
    tables={"datasets": datasets_table, "diff": diff_table, "rows": rows_table},
    files={"rows": rows_file},
    actions={
        "tag": Action(do=tag, verb="tag dataset", thing=_thing, reason=False),
        "untag": Action(do=untag, verb="untag dataset", thing=_thing),
    },
)  # fmt: skip
