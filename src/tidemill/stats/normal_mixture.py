"""Evidence about a mean that may be looked at as often as one likes, once the mean is about normal.

A score S with information I (for an estimate d with variance v: S = d / v, I = 1 / v) is mixed over a normal prior on
the true value. The mixture is an e-process for the value 0, and inverting it gives an interval that holds at all times
together.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 2024, arXiv 2103.06476.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def log_one_sided(score: float, information: float, prior: float) -> float:
    """Log evidence that the true value is above 0: d half-normal with standard deviation `prior`."""
    if information == 0 or prior == 0:
        return 0.0
    spread = 1 + prior**2 * information
    z = score * prior / np.sqrt(spread)
    return float(np.log(2) - 0.5 * np.log(spread) + z**2 / 2 + special.log_ndtr(z))


def half_width(information: float, prior: float, alpha: float) -> float:
    """Return half the width of the interval around the estimate that covers the truth at all looks with 1 - alpha."""
    if information <= 0 or prior <= 0:
        return math.inf
    spread = 1 + prior**2 * information
    return math.sqrt(2 * spread / (prior * information) ** 2 * math.log(math.sqrt(spread) / alpha))
