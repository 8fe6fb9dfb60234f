"""Traffic of a backtest: recorded requests, answered by whoever the route names, written as gateways would."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

import numpy as np
import polars as pl

from tidemill.errors import NotFound
from tidemill.loop.backtest.log import MemoryLog
from tidemill.loop.backtest.memo import as_slice
from tidemill.loop.backtest.values import Values
from tidemill.loop.backtest.world import RehearsalWorld
from tidemill.policy import Decided, Policy
from tidemill.records import Route, Trust
from tidemill.runtime.routing import position, share_in_force
from tidemill.schema import Array
from tidemill.stats.metrics import Metric
from tidemill.stores.columns import FEEDBACK_FIELDS, own_types
from tidemill.strategy.log import Everything, Request

LATENCY_MS = 1.0  # of every answer: how long a model takes is not simulated


class Traffic:
    """Answers rows of the stream, and tells afterwards what was true of them.

    `told` float64 (N,) are the labels that users and people give, as in `Values`: the truth with what noise there is.
    `quality` float64 (N,) is the metric of each answered row against the truth, which no strategy sees, NaN where
    nobody knows; `version` int64 (N,) who answered, 0 where nobody did.
    """

    def __init__(self, world: RehearsalWorld, told: Array, *, delay: timedelta, metric: Metric, first: int) -> None:
        num = len(told)
        assert isinstance(world.log, MemoryLog)
        self._world, self._log, self._stream = world, world.log, world.memo.stream
        self._values, self._metric = Values(world.project.output), metric
        self._told, self._delay = told, delay
        self._labels = self._values.series("text", told)
        self._answered = first  # rows before it were answered, or are history
        self._next_told = first  # the first row whose label has not been given as feedback
        self.quality = np.full(num, np.nan)
        self.version = np.zeros(num, dtype=np.int64)

    def answer(self, rows: Array) -> None:
        """Let requests be answered under the route in force, in shadow too.

        Raises:
            NotFound: no version is in traffic.
            ModelError: a version fails on a row.
        """
        route = self._route()
        policy = self._world.catalog.policy_in_force(self._world.name).policy
        share, assigned = self._assigned(route, rows)
        frame = self._frame(rows, route, share, "answer", assigned)
        decided, scores = self._decided(rows, assigned, policy)
        self._log.append("predictions", self._kept(frame.hstack(_said(assigned, scores, decided)), rows))
        self.version[rows] = assigned
        self._answered = int(rows[-1]) + 1
        self.quality[rows] = self._judged(rows, scores, decided.decisions)
        for version in route.shadows:
            who = np.full(len(rows), version)
            shadow = self._frame(rows, route, share, "shadow", who)
            decided, scores = self._decided(rows, who, policy)
            self._log.append("predictions", shadow.hstack(_said(who, scores, decided)))

    def answer_best(self, rows: Array, versions: Sequence[int]) -> None:
        """Judge rows as if the best of some versions had answered them all: nothing is written."""
        policy = self._world.catalog.policy_in_force(self._world.name).policy
        sign = 1.0 if self._metric.higher_is_better else -1.0
        found = []
        for version in versions:
            decided, scores = self._decided(rows, np.full(len(rows), version), policy)
            quality = self._judged(rows, scores, decided.decisions)
            mean = float(np.nanmean(quality)) if np.isfinite(quality).any() else 0.0
            found.append((sign * mean, -version, quality))
        _, best, self.quality[rows] = max(found, key=lambda one: one[:2])
        self.version[rows] = -best

    def judge(self, rows: Array) -> Array:
        """Return what the stable version would get on rows now, float64 (N,): nothing is written."""
        policy = self._world.catalog.policy_in_force(self._world.name).policy
        decided, scores = self._decided(rows, np.full(len(rows), self._route().stable), policy)
        return self._judged(rows, scores, decided.decisions)

    def _route(self) -> Route:
        route = self._world.catalog.route(self._world.name)
        if route is None:
            raise NotFound("no version answers.", "train version 1 first")
        return route

    def _assigned(self, route: Route, rows: Array) -> tuple[float, Array]:
        """Return the candidate's share and who answers each row."""
        versions = np.full(len(rows), route.stable, dtype=np.int64)
        share = share_in_force(route, int(self._stream.received_at[rows[0]])) if len(rows) else 0.0
        if share > 0 and route.candidate is not None:
            units = self._stream.units
            places = np.array([position(route.salt, units[row]) for row in rows.tolist()])
            versions[places < share] = route.candidate
        return share, versions

    def _frame(self, rows: Array, route: Route, share: float, role: str, assigned: Array) -> pl.DataFrame:
        """Return rows of the log, without what was said, of requests that follow each other."""
        about = self._stream.frame[["request_id", "received_at", "unit"]][int(rows[0]) : int(rows[-1]) + 1]
        alike = {
            "role": role, "rollout": route.rollout, "share": float(share), "salt": route.salt,
            "route_revision": route.revision, "policy_version": route.policy_version, "cached": False,
            "error": None, "fallback_reason": None, "subject": None,
            "latency_ms": LATENCY_MS, "keep_probability": 1.0 if role == "answer" else 0.0,
        }  # fmt: skip
        columns = [_one(name, value).new_from_index(0, len(rows)) for name, value in alike.items()]
        return about.hstack([*columns, pl.Series("assigned_version", assigned)])

    def _decided(self, rows: Array, versions: Array, policy: Policy) -> tuple[Decided, Array]:
        """Return what the versions say of the rows, and their scores."""
        scores = self._scores(rows, versions)
        return policy.decide(self._world.project.output, scores), scores

    def _scores(self, rows: Array, versions: Array) -> Array:
        different = np.unique(versions).tolist()
        if len(different) == 1:
            return self._world.memo.scores(self._artefact(different[0]), rows)
        scores = np.zeros((len(rows), self._world.project.output.num_scores), dtype=np.float32)
        for version in different:
            mine = versions == version
            scores[mine] = self._world.memo.scores(self._artefact(version), rows[mine])
        return scores

    def _artefact(self, version: int) -> str:
        return self._world.catalog.model(self._world.name, version).artefact

    def _kept(self, frame: pl.DataFrame, rows: Array) -> pl.DataFrame:
        """Add the inputs that the log stage keeps."""
        project = self._world.project
        frame = frame.hstack(self._stream.frame[list(project.inputs)][int(rows[0]) : int(rows[-1]) + 1])
        stage, tags = project.strategy.log, project.schema.tags
        if isinstance(stage, Everything):
            return frame
        asked = frame.select(*tags, "abstained", "request_id").iter_rows(named=True)
        keeps = [(stage.keep(Request(tags=row, abstained=row["abstained"])), row["request_id"]) for row in asked]
        whole = pl.Series([keep.inputs and position("keep", id_) < keep.probability for keep, id_ in keeps])
        chance = pl.Series([keep.probability for keep, _ in keeps], dtype=pl.Float64)
        bare = [pl.when(whole).then(pl.col(name)).alias(name) for name in project.inputs if name not in tags]
        return frame.with_columns(*bare, keep_probability=chance)

    def _judged(self, rows: Array, scores: Array, decisions: Sequence[str | float]) -> Array:
        """Return the quality that users got, float64 (N,): the strategy never reads it."""
        found = self._metric.rows(self._values.judged(self._stream.truth[rows], scores, decisions))
        assert found is not None, "the metric of a backtest has a value for each row"
        return found

    # --- what is learnt later

    def tell(self, now: int) -> None:
        """Write the feedback that arrived by `now` (microseconds), if the strategy waits for any."""
        stage = self._world.project.strategy.label.feedback
        until = int(np.searchsorted(self._stream.received_at, now - self._delay // timedelta(microseconds=1), "right"))
        until = min(until, self._answered)
        rows = np.arange(self._next_told, max(until, self._next_told))
        self._next_told = max(until, self._next_told)
        rows = rows[~np.isnan(self._told[rows])]
        if stage is not None and len(rows):
            at = self._stream.received_at[rows] + self._delay // timedelta(microseconds=1)
            self.write_labels(rows, at, source="feedback", trust=Trust(stage.trust))

    def write_labels(self, rows: Array, at: Array, *, source: str, trust: Trust) -> None:
        """Write labels of rows that came at these times, int64 microseconds (N,), rising, into the log."""
        some = as_slice(rows)
        is_text = self._labels.dtype == pl.String()
        labels = self._labels[some].alias("text" if is_text else "number")
        alike = {"kind": "label", "number" if is_text else "text": None, "source": source, "trust": str(trust)}
        columns = {name: _one(name, value, "feedback").new_from_index(0, len(rows)) for name, value in alike.items()}
        columns |= {
            "request_id": self._stream.frame["request_id"][some],
            "received_at": pl.Series("received_at", at, dtype=pl.Int64),
            labels.name: labels,
        }
        frame = pl.DataFrame([columns[name] for name in FEEDBACK_FIELDS])
        self._log.append("feedback", frame)


@lru_cache(maxsize=256)
def _one(name: str, value: str | float | None, kind: str = "predictions") -> pl.Series:
    """Return a column of the log with one row."""
    return pl.Series(name, [value], dtype=own_types(kind)[name])


def _said(versions: Array, scores: Array, decided: Decided) -> pl.DataFrame:
    """Return what versions (N,) said, as the log has it."""
    kind = pl.String() if isinstance(decided.decisions[0], str) else pl.Float64()
    columns = [
        pl.Series("answered_version", versions),
        pl.Series("scores", scores, dtype=pl.Array(pl.Float32, scores.shape[1])).cast(pl.List(pl.Float32)),
        pl.Series("decision", decided.decisions, dtype=kind),
        pl.Series("abstained", decided.abstained, dtype=pl.Boolean),
    ]
    return pl.DataFrame(columns)


def told_labels(truth: Array, *, noise: float, num_classes: int, seed: int) -> Array:
    """Return what people say, float64 (N,): the truth, but a share `noise` of it wrong.

    A wrong class is any other class; a wrong value is that of some earlier row.
    """
    if noise == 0:
        return truth
    rng = np.random.default_rng([seed, 7])
    wrong, draws = rng.random(len(truth)) < noise, rng.random(len(truth))
    known = np.isfinite(truth)
    if num_classes:
        shifted = (truth + 1 + np.floor(draws * (num_classes - 1))) % num_classes
        return np.where(wrong & known, shifted, truth)
    earlier = np.floor(draws * np.arange(len(truth))).astype(np.int64)
    return np.where(wrong & known & known[earlier], truth[earlier], truth)
