"""The loop as a picture: its stages from left to right, where the cycle is, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tidemill.dashboard.svg import picture
from tidemill.review.render.svg import tag, text

State = Literal["idle", "steady", "now", "done", "stuck"]
_WIDTH, _HEIGHT, _GAP, _TOP = 1120.0, 142.0, 26.0, 4.0
_BOX = 92.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: its word, a figure, a line under it, and how it stands. `href` is where more of it is."""

    name: str
    figure: str
    note: str
    state: State
    href: str


def strip(stages: Sequence[Stage], *, share: float | None, is_paused: bool) -> Markup:
    """Draw the loop. `share` is the candidate's part of traffic, None where there is no candidate.

    A link that work goes through is dashed and moves; the way back shows where what was learnt goes.
    """
    width = (_WIDTH - _GAP * (len(stages) - 1)) / len(stages)
    drawn: list[Markup] = [_way_back(width, is_paused)]
    for i, stage in enumerate(stages):
        x = i * (width + _GAP)
        if i:
            flows = stage.state in ("now", "steady") and not is_paused
            y = _TOP + _BOX / 2
            drawn.append(_arrow(x - _GAP + 3, y, x - 4, y, flows=flows))
        drawn.append(_stage(stage, x, width))
    if share is not None:
        drawn.append(_share(share, (len(stages) - 1) * (width + _GAP), width))
    told = "; ".join(f"{s.name}: {s.figure}, {s.note} ({s.state})" for s in stages)
    return picture("The loop", *drawn, width=_WIDTH, height=_HEIGHT, desc=told, class_="loop")


def _stage(stage: Stage, x: float, width: float) -> Markup:
    middle = x + 14
    inside = [
        tag("rect", x=x + 1, y=_TOP, width=width - 2, height=_BOX, rx=12, class_="loop-box"),
        text(middle, _TOP + 24, stage.name, class_="loop-name"),
        tag("circle", tag("title", stage.state), cx=x + width - 18, cy=_TOP + 20, r=5, class_="loop-sign"),
        text(middle, _TOP + 54, _cut(stage.figure, 13), class_="loop-figure"),
        text(middle, _TOP + 76, _cut(stage.note, 19), class_="loop-note"),
    ]
    return tag("a", *inside, href=stage.href, class_=f"loop-stage {stage.state}")


def _arrow(x1: float, y1: float, x2: float, y2: float, *, flows: bool) -> Markup:
    line = f"M{x1:.1f},{y1:.1f} H{x2:.1f}"
    head = f"M{x2 - 5:.1f},{y2 - 5:.1f} L{x2:.1f},{y2:.1f} L{x2 - 5:.1f},{y2 + 5:.1f}"
    return tag("path", d=f"{line} {head}", class_="loop-link flows" if flows else "loop-link")


def _way_back(width: float, is_paused: bool) -> Markup:
    """Draw the way from the last stage to the first, below the others."""
    left, right, low = width / 2, _WIDTH - width / 2, _TOP + _BOX + 40
    start = _TOP + _BOX + 2
    d = (
        f"M{right:.1f},{start:.1f} V{low - 12:.1f} Q{right:.1f},{low:.1f} {right - 12:.1f},{low:.1f} "
        f"H{left + 12:.1f} Q{left:.1f},{low:.1f} {left:.1f},{low - 12:.1f} V{start + 4:.1f} "
        f"M{left - 5:.1f},{start + 9:.1f} L{left:.1f},{start + 3:.1f} L{left + 5:.1f},{start + 9:.1f}"
    )
    words = "paused: no cycle opens, guards still roll back" if is_paused else "the new version answers, and is logged"
    link = tag("path", d=d, class_="loop-link" if is_paused else "loop-link flows")
    return Markup("").join([link, text(_WIDTH / 2, low - 8, words, anchor="middle", class_="loop-note")])


def _share(share: float, x: float, width: float) -> Markup:
    """Draw the traffic of the candidate as a part of a bar at the foot of the last stage."""
    y, whole = _TOP + _BOX - 9, width - 28
    return Markup("").join(
        [
            tag("rect", x=x + 14, y=y, width=whole, height=4, rx=2, class_="loop-track"),
            tag("rect", tag("title", f"{share:.0%} of the traffic"), x=x + 14, y=y, width=whole * share, height=4, rx=2,
                class_="loop-share"),
        ]
    )  # fmt: skip


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
