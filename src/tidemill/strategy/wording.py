"""How verdicts write numbers for people: `about 1,200`, `5 %`, `25 min`."""

from __future__ import annotations

import math

MOST_EVIDENCE = 1e9  # beyond it a larger number tells nobody more

_SPANS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def about(num: float) -> str:
    """Return a count with two figures that mean something: `about 1,200`."""
    if num < 10:
        return f"about {max(1, math.ceil(num))}"
    size = 10 ** (math.floor(math.log10(num)) - 1)
    return f"about {round(num / size) * size:,.0f}"


def more(num: float, one: str) -> str:
    """Return how many more it takes: `about 1 more error`, `about 1,200 more errors`."""
    shown = about(num)
    return f"{shown} more {one}" if shown == "about 1" else f"{shown} more {one}s"


def counted(num: float, one: str) -> str:
    """Return a count with its noun: `1 error`, `1,024 errors`."""
    return f"{num:,.0f} {one}" if num == 1 else f"{num:,.0f} {one}s"


def percent(share: float) -> str:
    """Return a share as percent: `5 %`, `0.25 %`."""
    return f"{share * 100:.3g} %"


def times(ratio: float) -> str:
    """Return a ratio: `×1.25`."""
    return f"×{ratio:.3g}"


def span(seconds: float) -> str:
    """Return about how long: `25 min`, `1.5 h`."""
    for unit, size in _SPANS:
        if seconds >= 2 * size:
            shown = seconds / size
            return f"{shown:.2g} {unit}" if shown < 10 else f"{shown:,.0f} {unit}"
    return "1 s"


def evidence(log_evidence: float) -> float:
    """Return evidence as a number for people: an e-value, cut off where more tells nothing."""
    return float(f"{min(math.exp(min(log_evidence, 50.0)), MOST_EVIDENCE):.3g}")


def against(log_evidence: float, wanted: float) -> str:
    """Return evidence beside what is wanted: `4.1 of 20`."""
    shown = evidence(log_evidence)
    text = (
        f"over {MOST_EVIDENCE:,.0f}" if shown >= MOST_EVIDENCE else f"{shown:,.3g}" if shown < 100 else f"{shown:,.0f}"
    )
    return f"{text} of {wanted:,.0f}"
