"""How far people who label the same examples agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidemill.schema import Array

Label = str | float | None


def cohen_kappa(one: Sequence[Label], other: Sequence[Label]) -> float:
    """Return Cohen's kappa of two labellers over examples that both labelled; NaN where chance explains all.

    1 is full agreement, 0 what chance gives. Cohen, Educational and Psychological Measurement 20 (1960).
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        return float("nan")
    agreed = sum(a == b for a, b in both) / len(both)
    said = [[pair[side] for pair in both] for side in (0, 1)]
    chance = sum(said[0].count(value) * said[1].count(value) for value in set(said[0])) / len(both) ** 2
    return float("nan") if chance == 1 else (agreed - chance) / (1 - chance)


def krippendorff_alpha(labels: Sequence[Sequence[Label]], *, numeric: bool = False) -> float:
    """Return Krippendorff's alpha of any number of labellers, of whom each labelled some of the examples.

    `labels` holds the labels of each example, None for none. Labels are names, or with `numeric` numbers, whose squared
    distance counts. 1 is full agreement, 0 what chance gives; NaN where nothing was labelled twice, or all labels are
    the same. Krippendorff, Content Analysis (2004), ch. 11; his data give .743 for names and .849 for numbers.
    """
    paired = [[label for label in some if label is not None] for some in labels]
    paired = [some for some in paired if len(some) > 1]
    values = sorted({label for some in paired for label in some}, key=lambda label: (str(type(label)), label))
    if len(values) < 2:
        return float("nan")
    counts = np.array([[some.count(value) for value in values] for some in paired], dtype=np.float64)
    together = (counts / (counts.sum(axis=1) - 1)[:, None]).T @ counts
    together[np.diag_indices_from(together)] -= (counts / (counts.sum(axis=1) - 1)[:, None]).sum(axis=0)
    apart, totals = _apart(values, numeric=numeric), together.sum(axis=1)
    expected = float((np.outer(totals, totals) * apart).sum()) / (float(totals.sum()) - 1)
    return 1.0 - float((together * apart).sum()) / expected


def _apart(values: Sequence[Label], *, numeric: bool) -> Array:
    """Return how far each two values are, float64 (V, V)."""
    if not numeric:
        return 1.0 - np.eye(len(values))
    numbers = np.array(values, dtype=np.float64)
    return np.asarray((numbers[:, None] - numbers[None]) ** 2)
