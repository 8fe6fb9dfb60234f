"""The folder that everything of an installation lives in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tidemill.errors import StoreError


@dataclass(frozen=True)
class Home:
    """Names the places in a home folder; two homes with the same folder are equal.

    | place | what is in it |
    |---|---|
    | `tidemill.db` | catalog and journal (SQLite), unless they are in PostgreSQL |
    | `database-id` | which database they are in, if they are elsewhere |
    | `segments/` | what gateways appended and the compactor has not yet taken |
    | `log/` | Parquet files of the prediction and feedback log |
    | `blobs/` | artefacts by content hash |
    | `reservoir/` | Arrow chunks of curated inputs |
    | `datasets/` | Arrow shards of dataset versions |
    | `runs/` | work folders of trainings, with their logs |
    | `backtests/` | what backtests found; there is none before the first |
    """

    folder: Path

    def __init__(self, folder: Path | str) -> None:
        object.__setattr__(self, "folder", Path(folder).expanduser().absolute())

    @property
    def db_url(self) -> str:
        """The SQLAlchemy URL of the embedded catalog."""
        return f"sqlite:///{quote(str(self.folder / 'tidemill.db'), safe=' +/')}"  # as SQLAlchemy reads it

    @property
    def segments(self) -> Path:
        """Where gateways append."""
        return self.folder / "segments"

    @property
    def log(self) -> Path:
        """The log's Parquet files."""
        return self.folder / "log"

    @property
    def blobs(self) -> Path:
        """Artefacts by content."""
        return self.folder / "blobs"

    @property
    def reservoir(self) -> Path:
        """Curated inputs."""
        return self.folder / "reservoir"

    @property
    def datasets(self) -> Path:
        """Dataset versions."""
        return self.folder / "datasets"

    @property
    def runs(self) -> Path:
        """Work folders of trainings."""
        return self.folder / "runs"

    @property
    def backtests(self) -> Path:
        """What backtests found."""
        return self.folder / "backtests"

    @property
    def is_used(self) -> bool:
        """Whether anything is kept here already."""
        kept = (self.log, self.blobs, self.reservoir, self.datasets)
        return (self.folder / "tidemill.db").exists() or any(place.is_dir() and any(place.iterdir()) for place in kept)

    def make(self) -> Self:
        """Create the folder and those in it, readable by this user only, and return the home; making it again is free.

        Raises:
            StoreError: a folder cannot be created; the message names it.
        """
        places = (self.segments, self.log, self.blobs, self.reservoir, self.datasets, self.runs)
        for place in (self.folder, *places):
            try:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"the home folder {str(place)!r} cannot be created: {error.strerror}.",
                    "choose a folder this user may write to, with --home or TIDEMILL_HOME",
                ) from error
        return self
