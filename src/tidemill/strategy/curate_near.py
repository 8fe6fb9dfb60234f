"""Members of curation that go by distances: near what is looked for, far from what is known, or spread over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array
from tidemill.stats.clusters import clusters
from tidemill.stats.distances import best_cosines, k_center, nearest_squares
from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw, Target
from tidemill.strategy.curating import Curate

_MAX_CLUSTERS = 64


@dataclass(frozen=True)
class Similar(Curate):
    """Choose what is most like `to`, by the cosine with the likest of its vectors: pi = 1 in their stratum.

    `to` is the name of a suite or a cohort, or a condition that examples of the reservoir have to meet (such as
    `"country = 'IS'"`), or a list of the ids of examples. Chooses nothing while there is nothing to be like.
    """

    share: float | None = None
    to: Target = ""

    def check(self) -> None:
        """Refuse to look for nothing."""
        super().check()
        self.require(bool(self.to), "to is missing", "name a suite or a cohort, write a condition, or list example ids")

    @property
    def reason(self) -> str:
        """Name what it looks for, as short as a column is wide."""
        if isinstance(self.to, str):
            return f"similar: {self.to if len(self.to) <= 40 else self.to[:39] + '…'}"
        return f"similar: {len(self.to)} examples"

    def needs(self) -> CurateNeeds:
        """Ask for the vectors, and for those of what is looked for."""
        return CurateNeeds(distinct=True, vectors=True, similar=(self.to,))

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take the most similar ones."""
        if self.to not in context.targets:
            raise ProjectError(f"{self} asks for what it looks for, which was not handed over.", "see `needs()`")
        targets = context.targets[self.to]
        cosines = best_cosines(self.vectors(candidates), targets)
        among = np.arange(len(candidates) if len(targets) else 0)
        return Draw.of_highest(cosines, budget, among)


@dataclass(frozen=True)
class Novel(Curate):
    """Choose what is farthest from all training examples: pi = 1 in their stratum.

    It finds new things of which the model may be sure and wrong, and outliers that no model should care for. Chooses
    nothing while there are no training examples. Distance to the nearest neighbour: Ramaswamy, Rastogi and Shim
    (SIGMOD 2000).
    """

    share: float | None = None

    def needs(self) -> CurateNeeds:
        """Ask for the vectors, and for those of training examples."""
        return CurateNeeds(distinct=True, vectors=True, training=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take the farthest."""
        known = _rows(context.training)
        among = np.arange(len(candidates) if len(known) else 0)
        return Draw.of_highest(nearest_squares(self.vectors(candidates), known), budget, among)


@dataclass(frozen=True)
class Representative(Curate):
    """Draw from at most 64 clusters, of each in proportion to its size: pi = n / N, as for `Random`, but more evenly.

    The requests are laid in a row, cluster by cluster and at random within each, and every N/n-th is taken (systematic
    sampling: Cochran, Sampling Techniques, 1977, ch. 8).
    """

    share: float | None = None

    @property
    def by_chance(self) -> bool:
        """It draws."""
        return True

    def needs(self) -> CurateNeeds:
        """Ask for the vectors."""
        return CurateNeeds(vectors=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take a share of each cluster."""
        size = len(candidates)
        num = min(budget, size)
        if not num:
            return Draw(np.zeros(0, dtype=np.int64), np.zeros(size))
        found = clusters(self.vectors(candidates), min(num, _MAX_CLUSTERS), rng)
        in_row = np.lexsort((rng.random(size), found))
        places = np.floor((np.arange(num) + rng.random()) * (size / num)).astype(np.int64)
        return Draw(in_row[np.minimum(places, size - 1)], np.full(size, num / size))


@dataclass(frozen=True)
class Diverse(Curate):
    """Choose what covers the requests best: each pick is the farthest from the training examples and earlier picks.

    Greedy k-center, pi = 1 in their stratum. Sener and Savarese, Active Learning for Convolutional Neural Networks: A
    Core-Set Approach (ICLR 2018).
    """

    share: float | None = None

    def needs(self) -> CurateNeeds:
        """Ask for the vectors, and for those of training examples."""
        return CurateNeeds(distinct=True, vectors=True, training=True)

    def draw(self, candidates: Candidates, context: CurateContext, budget: int, rng: np.random.Generator) -> Draw:
        """Take one after the other."""
        vectors = self.vectors(candidates)
        return Draw.chosen(k_center(vectors, budget, _rows(context.training)), len(candidates))


def _rows(vectors: Array | None) -> Array:
    return np.zeros((0, 1), dtype=np.float32) if vectors is None else vectors
