"""A home folder with one dataset of digits in it, and project files to train on it."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path

from learnable import digit_rows

from tidemill.project import load_project
from tidemill.records import Example, Trust
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.home import Home
from tidemill.stores.reservoir import Reservoir
from tidemill.training.runner import Job

NOW = datetime(2026, 1, 1, tzinfo=UTC)

PROJECT = """
import os
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import tidemill as tm


class Own:
    '''A trainer of one's own; what happens is told by `does`.'''

    does = "learn"

    def to_json(self):
        return {"trainer": "Own", "does": self.does}

    def train(self, data, *, start_from, seed, workdir, progress):
        print("training begins", flush=True)
        progress(tm.Progress(fraction=0.5, message="half way", numbers={"loss": 0.25}))
        if self.does == "raise":
            raise KeyError("no such thing")
        if self.does == "die":
            os.kill(os.getpid(), 9)
        if self.does == "hang":
            if os.fork() == 0:  # a child of its own, as data loaders have
                (workdir.parent / "child").write_text(str(os.getpid()))
            time.sleep(600)
        share = np.bincount(data.targets, minlength=10) / len(data)
        return OwnModel(share if self.does != "nan" else share * np.nan)


class OwnModel:
    '''Says what is most frequent.'''

    def __init__(self, share):
        self.share = share

    def predict(self, columns):
        return np.tile(self.share, (len(columns["image"]), 1))

    def save(self, folder: Path):
        np.save(folder / "share.npy", self.share)

    @classmethod
    def load(cls, folder: Path):
        return cls(np.load(folder / "share.npy"))


def own(does):
    trainer = Own()
    trainer.does = does
    return trainer


project = tm.Project(
    name="digits",
    inputs={"image": tm.Image((8, 8))},
    output=tm.Classes([str(d) for d in range(10)]),
    trainer=TRAINER,
)
"""


def project_file(folder: Path, trainer: str, name: str = "digits_project") -> str:
    """Write a project file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(PROJECT).replace("TRAINER", trainer))
    return str(path)


def made_home(folder: Path) -> tuple[Home, str]:
    """Return a home, and the digest of the dataset in it."""
    home = Home(folder / "home").make()
    project = load_project(project_file(folder, "own('learn')", name="first_project"))
    db = Database.open(home.db_url)
    reservoir = Reservoir(db, home.reservoir)
    data = digit_rows()
    examples = [
        Example(
            id=id_, request_id=None, unit=id_, received_at=NOW, picked_at=NOW, reason="import", probability=None,
            split="", inputs={"image": data.columns["image"][i].tobytes()}, label=str(data.targets[i]),
            trust=Trust.PEOPLE, source="import", labelled_at=NOW,
        )
        for i, id_ in enumerate(data.ids)
    ]  # fmt: skip
    with db.begin() as conn:
        manifest = project.compile().to_json()
        Catalog(db).publish(conn, manifest, project.strategy.to_json(), file="digits_project.py", now=NOW)
        reservoir.add(conn, "digits", examples)
    index = reservoir.index("digits")
    train = index.filter(index["split"] == "train")["id"].to_list()
    with db.begin() as conn:
        dataset = Datasets(db, home.datasets, reservoir).form(
            conn, "digits", ids=train, weights=[1.0] * len(train), formed_by="Everything()", parent=None,
            schema=project.schema, now=NOW,
        )  # fmt: skip
    db.close()
    return home, dataset.digest


def job(home: Home, dataset: str, file: str, run: str = "run-1", **parts) -> Job:
    """Return a job on that dataset."""
    given = {"seed": 3, "workdir": str(home.runs / run), **parts}
    return Job(project_file=file, home=str(home.folder), project="digits", dataset=dataset, run=run, **given)
