"""What curation costs and what it buys: `nice python benchmarks/curation.py [--data FOLDER] [cost | labels]`.

`cost`: CPU seconds and memory of picking 1,000 of a million candidates with 256 scores or 256 numbers of embedding.

`labels`: how many labels it takes to reach 95 % of the gain that all labels of a pool give, on real streams
(`digit_cohorts.parquet`, `arxiv_titles.parquet`; without them it says so and stops). A model learns from the first rows
of the stream; then 50, 100, 200, ... of the next rows are picked and labelled, step by step, the model learning after
each step. Quality is the accuracy on rows of the pool's time that are never picked. Models are quick and closed: random
features and ridge regression on the pictures, naive Bayes on the words. `judged` are the rows picked so far with the
scores they had before; a twentieth of the pool gives feedback by itself; the shadow is the model of the step before.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.naive_bayes import ComplementNB

from tidemill.schema import Classes, Image, Schema, Text
from tidemill.stats.embedding import Embedding
from tidemill.stats.near_duplicates import near_duplicates
from tidemill.stats.vectors import Vectors
from tidemill.strategy import curate
from tidemill.strategy.candidates import Candidates, CurateContext, Judgements
from tidemill.strategy.curate_uncertain import doubt

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BUDGETS = (50, 100, 200, 400, 800, 1_600, 3_200, 6_400)
SHARE_OF_GAIN = 0.95
MEMBERS: dict[str, curate.Curate] = {
    "random": curate.Random(1.0),
    "representative": curate.Representative(1.0),
    "margin": curate.Uncertain(),
    "entropy": curate.Uncertain(by="entropy"),
    "expected error": curate.ExpectedError() + curate.Random(0.2),
    "feedback": curate.FeedbackDriven() + curate.Random(0.2),
    "novel": curate.Novel(),
    "diverse": curate.Diverse(),
    "similar to errors": curate.Similar(0.8, to="errors") + curate.Random(0.2),
    "disagreement": curate.Disagreement(0.8) + curate.Random(0.2),
    "mix": curate.Uncertain(0.5) + curate.FeedbackDriven(0.1) + curate.Random(0.4),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["cost", "labels", "all"], default="all")
    parser.add_argument("--data", type=Path, help="a folder with the recorded streams, for `labels`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.data is None and given.what != "cost":
        parser.error("labels are of recorded streams: give --data")
    if given.what in ("cost", "all"):
        costs(given.rows)
    if given.what in ("labels", "all"):
        labels(given.data, given.seeds)


# --- cost


def costs(num: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.empty((num, 256), dtype=np.float32)
    for at in range(0, num, 50_000):
        rows[at : at + 50_000] = rng.standard_normal((min(50_000, num - at), 256), dtype=np.float32)
    vectors, ids = Vectors(rows), tuple(map(str, range(num)))
    print(f"picking 1,000 of {num:,} candidates")
    nothing = np.zeros(num, dtype=bool)
    there = Candidates(
        ids=ids, scores=rows, decisions=(None,) * num, columns={}, negative=nothing, vectors=vectors
    )  # the numbers stand for scores too: 256 of them
    context = CurateContext(now=NOW, training=rows[:1_000].copy())
    timed("margin, 256 scores", 2, lambda: curate.Uncertain().pick(there, context, 1_000, rng))
    timed("near-duplicates", 3, lambda: near_duplicates(vectors))
    timed("k-center", 90, lambda: curate.Diverse().pick(there, CurateContext(now=NOW), 1_000, rng))
    timed("representative", None, lambda: curate.Representative().pick(there, context, 1_000, rng))
    timed("novel, 1,000 training rows", None, lambda: curate.Novel().pick(there, context, 1_000, rng))
    print(
        f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB (<= 2, the rows are 1.02)"
    )


def timed(name: str, at_most: float | None, do: Callable[[], Any]) -> None:
    cpu = time.process_time()
    do()
    cpu = time.process_time() - cpu
    print(f"  {name:<28}{cpu:7.2f} CPU s{'' if at_most is None else f'   (<= {at_most})'}", flush=True)


# --- labels


@dataclass
class Stream:
    """Rows to begin with, a pool to pick from, and rows to judge by; `fit` gives a function from features to scores."""

    name: str
    features: Any
    rows: list[dict[str, Any]]
    schema: Schema
    targets: np.ndarray
    begin: np.ndarray
    pool: np.ndarray
    test: np.ndarray
    fit: Callable[[Any, np.ndarray], Callable[[Any], np.ndarray]]


def labels(folder: Path, seeds: int) -> None:
    if not (folder / "digit_cohorts.parquet").exists():
        print(f"no streams in {folder}: give their folder with --data")
        return
    for stream in (digits(folder), digits(folder, new_class=True), split(folder), titles(folder)):
        scores = stream.fit(stream.features[stream.begin], stream.targets[stream.begin])(stream.features[stream.test])
        start = accuracy(scores, stream.targets[stream.test])
        all_ = np.concatenate([stream.begin, stream.pool])
        full = accuracy(
            stream.fit(stream.features[all_], stream.targets[all_])(stream.features[stream.test]),
            stream.targets[stream.test],
        )
        print(f"\n{stream.name}: accuracy {start:.3f} before, {full:.3f} with all {len(stream.pool):,} labels")
        asked = stream.fit(stream.features[stream.begin], stream.targets[stream.begin])(stream.features[stream.pool])
        margins, wrong = -doubt(asked, "margin"), asked.argmax(axis=1) != stream.targets[stream.pool]
        print(
            f"  {(margins[wrong] > np.median(margins)).mean():.0%} of its errors are in the surer half of its answers"
        )
        print(f"  {'':<20}{'labels to 95 %':>15}  " + "".join(f"{budget:>7}" for budget in BUDGETS))
        vectors = Embedding.fit(stream.schema, [stream.rows[i] for i in stream.pool[:2_000]]).of(stream.rows)
        for name, member in MEMBERS.items():
            curves = np.array([curve(stream, vectors, member, seed) for seed in range(seeds)])
            reached = [needed(one, start, full) for one in curves]
            shown = f"{np.median(reached):,.0f}" if np.isfinite(np.median(reached)) else f"> {BUDGETS[-1]:,}"
            print(f"  {name:<20}{shown:>15}  " + "".join(f"{a:7.3f}" for a in curves.mean(axis=0)), flush=True)


def needed(curve_: np.ndarray, start: float, full: float) -> float:
    """Return how many labels reach 95 % of the gain, between two budgets by the logarithm."""
    goal, before = start + SHARE_OF_GAIN * (full - start), (1, start)
    for budget, reached in zip(BUDGETS, curve_, strict=True):
        if reached >= goal:
            part = (goal - before[1]) / max(reached - before[1], 1e-9)
            return float(np.exp(np.log(before[0]) + part * (np.log(budget) - np.log(before[0]))))
        before = (budget, reached)
    return float("inf")


def curve(stream: Stream, vectors: np.ndarray, member: curate.Curate, seed: int) -> list[float]:
    rng, names = np.random.default_rng(seed), np.array(stream.schema.output.names, dtype=object)
    picked, found, known = np.zeros(0, dtype=np.int64), [], Known.none(len(names))
    speaks = rng.random(len(stream.targets)) < 0.05
    model = stream.fit(stream.features[stream.begin], stream.targets[stream.begin])
    before = model
    for budget in BUDGETS:
        left = np.setdiff1d(stream.pool, picked)
        if not len(left):
            found.append(found[-1])
            continue
        scores = model(stream.features[left])
        said, truth = scores.argmax(axis=1), stream.targets[left]
        rows = Vectors(vectors[left])
        candidates = Candidates(
            ids=tuple(map(str, left)), scores=scores, decisions=tuple(names[said]), columns={},
            negative=speaks[left] & (said != truth), vectors=rows, repeated=near_duplicates(rows),
            shadow=tuple(names[before(stream.features[left]).argmax(axis=1)]),
        )  # fmt: skip
        trained = np.concatenate([stream.begin, picked])
        context = CurateContext(
            now=NOW, training=vectors[rng.choice(trained, size=min(2_000, len(trained)), replace=False)],
            targets={"errors": vectors[known.errors[-200:]]}, judged=known.judged(names),
        )  # fmt: skip
        num = min(budget, len(stream.pool)) - len(picked)
        new = np.array([int(id_) for id_ in member.pick(candidates, context, num, rng).ids], dtype=np.int64)
        if len(new) < num:  # what a member leaves, chance takes
            new = np.concatenate([new, rng.choice(np.setdiff1d(left, new), size=num - len(new), replace=False)])
        known.add(new, scores[np.searchsorted(left, new)], stream.targets[new])
        picked = np.concatenate([picked, new])
        trained, before = np.concatenate([stream.begin, picked]), model
        model = stream.fit(stream.features[trained], stream.targets[trained])
        found.append(accuracy(model(stream.features[stream.test]), stream.targets[stream.test]))
    return found


@dataclass
class Known:
    """What was picked, with the scores of before."""

    scores: np.ndarray
    wrong: np.ndarray
    errors: np.ndarray

    @classmethod
    def none(cls, num: int) -> Known:
        return cls(np.zeros((0, num)), np.zeros(0), np.zeros(0, dtype=np.int64))

    def add(self, rows: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> None:
        wrong = scores.argmax(axis=1) != truth
        self.scores = np.concatenate([self.scores, scores])
        self.wrong = np.concatenate([self.wrong, wrong.astype(np.float64)])
        self.errors = np.concatenate([self.errors, rows[wrong]])

    def judged(self, names: np.ndarray) -> Judgements | None:
        if not len(self.wrong):
            return None
        said = tuple(names[self.scores.argmax(axis=1)])
        return Judgements(scores=self.scores, decisions=said, columns={}, losses=self.wrong)


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == targets).mean())


def digits(folder: Path, *, new_class: bool = False) -> Stream:
    """Begin with USPS; the pool is half of what came later. With `new_class`, all of USPS without 8 and 9."""
    frame = pl.read_parquet(folder / "digit_cohorts.parquet").sort("time")
    pixels = np.frombuffer(b"".join(frame["image"].to_list()), dtype=np.uint8).reshape(-1, 256)
    targets, source = frame["label"].cast(pl.Int64).to_numpy(), frame["source"]
    first = source[0]
    usps = np.flatnonzero((source == first).to_numpy())
    begin = usps[:4_500]
    later = np.flatnonzero((source != first).to_numpy()) if not new_class else usps[4_500:]
    if new_class:
        begin = begin[targets[begin] < 8]
    mixed = np.random.default_rng(0).permutation(later)
    rng = np.random.default_rng(1)
    waves, phases = rng.normal(size=(256, 800)) / 6.0, rng.uniform(0, 2 * np.pi, size=800)
    features = np.cos(pixels / 255.0 @ waves + phases).astype(np.float32)
    return Stream(
        name="digit_cohorts, classes 8 and 9 are new" if new_class else "digit_cohorts, four new collections",
        features=features, rows=[{"image": row.tobytes()} for row in pixels],
        schema=Schema({"image": Image((16, 16))}, Classes([str(i) for i in range(10)])), targets=targets, begin=begin,
        pool=np.sort(mixed[len(mixed) // 3 :]), test=np.sort(mixed[: len(mixed) // 3]), fit=ridge,
    )  # fmt: skip


def split(folder: Path) -> Stream:
    """Begin with 1,200 rows of USPS by an old rulebook that calls a 9 a 4: of many a 9 the model is wrong, and sure."""
    stream, begin = digits(folder, new_class=True), np.arange(1_200)
    targets = stream.targets.copy()
    targets[begin] = np.where(targets[begin] == 9, 4, targets[begin])
    return replace(stream, name="digit_cohorts, a 9 was called 4 before", targets=targets, begin=begin)


def ridge(features: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    wanted = np.eye(10, dtype=np.float32)[targets]
    curve_ = features.T @ features + 1.0 * np.eye(features.shape[1], dtype=np.float32)
    weights = np.linalg.solve(curve_, features.T @ wanted)

    def scores(rows: np.ndarray) -> np.ndarray:
        said = np.exp(6.0 * (rows @ weights))
        return np.asarray(said / said.sum(axis=1, keepdims=True), dtype=np.float64)

    return scores


def titles(folder: Path) -> Stream:
    """Begin with 2000 to 2008; the pool is 8,000 titles of 2012 to 2014."""
    frame = pl.read_parquet(folder / "arxiv_titles.parquet").sort("time")
    years, names = frame["time"].dt.year().to_numpy(), sorted(frame["label"].unique().to_list())
    targets = frame["label"].replace_strict({n: i for i, n in enumerate(names)}, return_dtype=pl.Int64).to_numpy()
    begin = np.flatnonzero(years <= 2008)
    later = np.random.default_rng(0).permutation(np.flatnonzero((years >= 2012) & (years <= 2014)))[:11_000]
    texts = frame["title"].to_list()
    features = HashingVectorizer(n_features=2**16, ngram_range=(1, 2), alternate_sign=False).transform(texts).tocsr()

    def fit(rows: Any, wanted: np.ndarray) -> Callable[[Any], np.ndarray]:
        model = ComplementNB().fit(rows, wanted)

        def scores(asked: Any) -> np.ndarray:
            full = np.full((asked.shape[0], len(names)), 1e-9)
            full[:, model.classes_] = model.predict_proba(asked)
            return full / full.sum(axis=1, keepdims=True)

        return scores

    return Stream(
        name="arxiv_titles, 2012 to 2014 after 2000 to 2008", features=features, rows=[{"title": t} for t in texts],
        schema=Schema({"title": Text()}, Classes(names)), targets=targets, begin=begin,
        pool=np.sort(later[:8_000]), test=np.sort(later[8_000:]), fit=fit,
    )  # fmt: skip


if __name__ == "__main__":
    main()
