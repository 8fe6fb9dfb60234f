"""A reservoir with examples in it, and the datasets formed from it: what the suites of datasets stand on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.records import DatasetVersion, Example, Trust
from tidemill.schema import Classes, Number, Schema, Text
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.reservoir import Reservoir

SCHEMA = Schema({"text": Text(), "age": Number(tag=True)}, Classes(["ok", "toxic"]))


class Pool:
    """A reservoir and the datasets formed from it."""

    def __init__(self, db: Database, folder: Path, now: datetime) -> None:
        self.db, self.now, self.folder = db, now, folder
        self.reservoir = Reservoir(db, folder / "reservoir")
        self.datasets = Datasets(db, folder / "datasets", self.reservoir)

    def fill(self, num: int, project: str = "p", **changes: Any) -> None:
        """Add examples `0` to `num - 1`, each labelled by a person and of a content and unit of its own."""
        for i in range(num):
            self.add(project, f"{i}", text=f"text {i}", at=self.now + timedelta(seconds=i), **changes)

    def add(self, project: str, id_: str, *, text: str, at: datetime | None = None, **changes: Any) -> None:
        at = at or self.now
        example = Example(
            id=id_, request_id=id_, unit=id_, received_at=at, picked_at=self.now, reason="Random", probability=0.5,
            split="", inputs={"text": text, "age": 4.0}, label="ok", trust=Trust.PEOPLE, source="queue", labelled_at=at,
        )  # fmt: skip
        with self.db.begin() as conn:
            self.reservoir.add(conn, project, [replace(example, **changes)])

    def label(self, id_: str, value: str, project: str = "p", trust: Trust = Trust.TRUTH) -> None:
        with self.db.begin() as conn:
            self.reservoir.label(conn, project, id_, value=value, trust=trust, source="s", at=self.now)

    def ids(self, split: str, project: str = "p") -> list[str]:
        index = self.reservoir.index(project)
        return index.filter(index["split"] == split)["id"].to_list()

    def form(self, ids: list[str] | None = None, project: str = "p", **changes: Any) -> DatasetVersion:
        ids = self.ids("train", project) if ids is None else ids
        asked = {
            "ids": tuple(ids), "weights": (1.0,) * len(ids), "formed_by": "Everything()", "parent": None,
            "schema": SCHEMA, "now": self.now,
        }  # fmt: skip
        with self.db.begin() as conn:
            return self.datasets.form(conn, project, **{**asked, **changes})
