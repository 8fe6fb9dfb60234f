"""What a batch prediction is told, and what of it is written down so that it can go on after a kill."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidemill.errors import Conflict, ProjectError, StoreError
from tidemill.records import Json
from tidemill.schema import Schema
from tidemill.stores.folders import whole_file
from tidemill.stores.outputs import MADE
from tidemill.stores.places import Place

OnBadRow = Literal["refuse", "skip"]
PROGRESS = "progress.json"
_NAMES = {"on_bad_row": "--on-bad-row", "keep": "--keep"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One batch prediction.

    `keep` names the columns that go into the output beside what is predicted, by default all that are no inputs.
    `jobs` is how many parts are at work at once, by default as many as there are cores and work for. `batch_rows` are
    predicted by one call of the model, `part_rows` written down at once; both are measured by default. With `replace`
    an output that is there gives way at the end. `restart` throws away what an interrupted job left; with
    `restart_if_changed` only where the input or an option has changed since.
    """

    source: Place
    to: Place
    refused: Place | None = None
    version: int | None = None
    on_bad_row: OnBadRow = "refuse"
    keep: tuple[str, ...] | None = None
    jobs: int | None = None
    batch_rows: int | None = None
    part_rows: int | None = None
    replace: bool = False
    restart: bool = False
    restart_if_changed: bool = False
    slot: str = ""

    @property
    def refused_to(self) -> Place:
        """Where refused rows are written."""
        return self.to.refused if self.refused is None else self.refused

    def workdir(self, runs: Path) -> Path:
        """Return where parts are kept: one folder for an output, whatever it is made from."""
        name = (self.to.path.name if self.to.kind != "sql" else self.to.table)[:40]
        digest = hashlib.blake2b(str(self.to).encode(), digest_size=6).hexdigest()
        return runs / f"batch-{name}-{digest}"


class Progress(msgspec.Struct, kw_only=True):
    """`progress.json`: what the parts in this folder are parts of.

    `inode` is that of the output, once it is begun (0 for a table of SQL); `ended` how the job ended, once the output
    is known to be there.
    """

    about: dict[str, Any]
    part_rows: int
    batch_rows: int
    inode: int | None = None
    ended: dict[str, Any] | None = None

    def write(self, workdir: Path) -> None:
        """Write it whole."""
        with whole_file(workdir / PROGRESS) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=1))


def read_progress(workdir: Path) -> Progress | None:
    """Return what an interrupted job left, None where there is nothing.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return msgspec.json.decode((workdir / PROGRESS).read_bytes(), type=Progress)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{workdir / PROGRESS} cannot be read: {error}.", "begin again with --restart") from error


def check_unchanged(before: Json, now: Json) -> None:
    """Refuse to go on with a job of another input, version, policy or option.

    One that stopped at a bad row may go on leaving such rows out: none was met in what is done.

    Raises:
        Conflict: one of them differs; the message names it.
    """
    changed = [name for name in now if before.get(name) != now[name]]
    if "on_bad_row" in changed and now["on_bad_row"] == "skip":
        changed.remove("on_bad_row")
    if not changed:
        return
    name = changed[0]
    values = "" if isinstance(now[name], dict) else f": it was {before.get(name)!r}, and is {now[name]!r}"
    hint = f"--version {before['version']} goes on with it; " if name == "version" else ""
    raise Conflict(
        f"{_NAMES.get(name, 'the ' + name.replace('_', ' '))} has changed since this job was interrupted{values}.",
        f"{hint}--restart throws away what was done, and begins again",
    )


def kept(names: Sequence[str], schema: Schema, sensitive: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the columns of a table that go into the output.

    Raises:
        ProjectError: an input or a wanted column is missing, or one may not or cannot be kept.
    """
    missing = [name for name in schema.required if name not in names]
    if missing:
        raise ProjectError(
            f"the data has no column {', '.join(map(repr, missing))}; it has {', '.join(names)}.",
            "rename the columns to the project's inputs",
        )
    keep = [name for name in names if name not in schema.inputs] if wanted is None else list(dict.fromkeys(wanted))
    for name in keep:
        if name not in names:
            raise ProjectError(f"the data has no column {name!r}; it has {', '.join(names)}.", "correct --keep")
        if name in sensitive:
            raise ProjectError(f"{name!r} is sensitive, and is never written.", "keep another column")
        if name in (*MADE, "top_k", "row"):
            raise ProjectError(
                f"column {name!r} has the name of a predicted one.", "rename it, or keep others by --keep"
            )
    return keep


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
