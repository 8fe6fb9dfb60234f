"""What backtests found, each in a folder of its own: whole or not there, and never changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import polars as pl

from tidemill.errors import Corrupt, NotFound
from tidemill.records import Json
from tidemill.stores.database import dumps, loads
from tidemill.stores.folders import sync_folder, whole_file
from tidemill.stores.home import Home

_ABOUT, _REPORT = "about.json", "report.html"
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class KeptBacktest:
    """What one backtest found.

    `names` are the strategies in order, `bodies` their JSON; `summary` has a dict for each strategy and seed, the
    quality under the name of `metric`. `comparisons` say how much better each strategy is than the first (with a card:
    than the old one), with its interval; `card` is the card of a change and `card_markdown` its text, None without one.
    """

    id: str
    made_at: datetime
    project: str
    source: str
    metric: str
    higher_is_better: bool
    coverage: float
    conclusive: bool
    names: list[str]
    bodies: Json
    setting: Json
    spent: Json
    summary: list[Json]
    comparisons: list[Json]
    card: Json | None
    card_markdown: str | None
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a folder holds, but for the tables.

        Raises:
            Corrupt: it is not what `Backtests.put` wrote.
        """
        try:
            about = loads((folder / _ABOUT).read_text(encoding="utf-8"))
            made_at = datetime.fromisoformat(about.pop("made_at"))
            return cls(id=folder.name, made_at=made_at, folder=folder, **about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            hint = f"delete the folder {str(folder)!r}, and run the backtest again"
            raise Corrupt(f"backtest {folder.name} cannot be read: {error}.", hint) from error

    @property
    def windows(self) -> pl.DataFrame:
        """A row for each strategy, seed and window."""
        return self._table("windows")

    @property
    def events(self) -> pl.DataFrame:
        """A row for each verdict: strategy, seed, at, cycle, step, outcome, by, reason."""
        return self._table("events")

    @property
    def kept(self) -> pl.DataFrame:
        """A row for each strategy, seed and cohort: what the last live version gets on test examples of all time."""
        return self._table("kept")

    @property
    def report(self) -> Path:
        """The report, an HTML file that needs nothing from elsewhere."""
        return self.folder / _REPORT

    def _table(self, name: str) -> pl.DataFrame:
        try:
            return pl.read_parquet(self.folder / f"{name}.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            hint = f"delete the folder {str(self.folder)!r}, and run the backtest again"
            raise Corrupt(f"the {name} of backtest {self.id} cannot be read: {error}.", hint) from error


class Backtests:
    """The backtests that were run against a home."""

    def __init__(self, home: Home) -> None:
        self._folder = home.backtests

    def all(self) -> list[KeptBacktest]:
        """Return every backtest that can be read, newest first."""
        found: list[KeptBacktest] = []
        for place in self._folder.iterdir() if self._folder.is_dir() else ():
            if _ID.fullmatch(place.name):
                try:
                    found.append(KeptBacktest.read(place))
                except Corrupt:
                    continue  # one that is broken hides no other; asked for by its id, it says why
        return sorted(found, key=lambda one: (one.made_at, one.id), reverse=True)

    def one(self, id: str) -> KeptBacktest:
        """Return a backtest.

        Raises:
            NotFound: there is none of that id.
            Corrupt: it cannot be read.
        """
        place = self._folder / id
        if not _ID.fullmatch(id) or not place.is_dir():
            raise NotFound(f"there is no backtest {id!r}.", "see which there are in the home's folder `backtests`")
        return KeptBacktest.read(place)

    def put(self, about: Json, tables: Mapping[str, pl.DataFrame], report: str, *, now: datetime) -> str:
        """Keep a backtest and return its id; `about` has the fields of `KeptBacktest` but id, made_at and folder.

        Raises:
            StoreError: `about` has no form in JSON.
        """
        text = dumps({**about, "made_at": now.isoformat()})
        id = f"{now:%Y%m%dT%H%M%SZ}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        place, part = self._folder / id, self._folder / f".{id}.{os.urandom(4).hex()}.part"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.mkdir()
        try:
            for name, table in tables.items():
                with whole_file(part / f"{name}.parquet") as file:
                    table.write_parquet(file)
            for name, page in ((_REPORT, report), (_ABOUT, text)):
                with whole_file(part / name) as file:
                    file.write(page.encode())
            if not place.exists():
                part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync_folder(self._folder)
        return id
