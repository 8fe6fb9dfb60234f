"""What of the live version's first outcomes a trigger or an alert holds it to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceNeeds:
    """The first `size` losses of the live version by a metric, in each of `streams`; None: everyone, every cohort."""

    metric: str
    size: int
    streams: tuple[str, ...] | None = None
