"""Results of runs in a folder, by the hash of all they depend on: a backtest that is stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tidemill import __version__
from tidemill.fingerprint import callable_json
from tidemill.loop.backtest.memo import content_of
from tidemill.loop.backtest.run import Run, Setting
from tidemill.loop.backtest.stream import Stream
from tidemill.project import Project
from tidemill.records import Json
from tidemill.strategy.strategy import Strategy

_FORMAT = 1


def key_of(
    project: Project, stream: Stream, setting: Setting, strategy: Strategy, *, seed: int | None, hindsight: bool
) -> str:
    """Return the name of a run: equal names mean equal results."""
    declared = {name: part for name, part in project.compile().to_json().items() if name != "strategy"}
    parts = [
        _FORMAT, __version__, stream.digest, declared, project.trainer.to_json(), dict(project.cohorts),
        [metric.to_json() for metric in project.metrics],
        {name: callable_json(made, f"projections[{name!r}]") for name, made in project.projections.items()},
        setting.to_json(), strategy.to_json(), seed, hindsight,
    ]  # fmt: skip
    return content_of(parts)[:32]


class Kept:
    """Runs in a folder; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, name: str) -> Run | None:
        """Return a run under a strategy's name of today, None where it is not there whole."""
        if self._folder is None:
            return None
        try:
            body = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            with np.load(self._folder / f"{key}.npz") as arrays:
                quality, version = arrays["quality"], arrays["version"]
        except (OSError, ValueError, KeyError):
            return None
        return Run(**{**body, "strategy": name, "quality": quality, "version": version})

    def put(self, key: str, run: Run) -> None:
        """Keep a run, whole or not at all."""
        if self._folder is None:
            return
        body: Mapping[str, Json] = {n: v for n, v in vars(run).items() if n not in ("quality", "version")}
        part = self._folder / f"{key}.{os.getpid()}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, quality=run.quality, version=run.version)
        part.rename(self._folder / f"{key}.npz")
        part.write_text(json.dumps(body), encoding="utf-8")
        part.rename(self._folder / f"{key}.json")
