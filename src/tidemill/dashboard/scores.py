"""The scores of an answer as bars, the decision marked."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tidemill.dashboard import svg
from tidemill.review.render.svg import bar, line, text
from tidemill.schema import Classes, Output

_MOST, _ROW, _LEFT, _WIDTH = 10, 22.0, 132.0, 460.0


def confidence(output: Output, scores: Sequence[float] | None, decision: object) -> float | None:
    """Return the score of the decision; None where the output has no classes."""
    if not scores or not isinstance(output, Classes) or decision not in output.names:
        return None
    at = list(output.names).index(str(decision))
    return float(scores[at]) if at < len(scores) else None


def score_bars(output: Output, scores: Sequence[float] | None, decision: object) -> Markup | None:
    """Draw the highest scores, at most ten, as bars from 0 to 1; None where there are none, or no classes."""
    if not scores or not isinstance(output, Classes) or len(scores) != len(output.names):
        return None
    pairs = sorted(zip(scores, output.names, strict=True), key=lambda pair: -pair[0])[:_MOST]
    width = _WIDTH - _LEFT - 64
    drawn: list[Markup] = [line(_LEFT, 0, _LEFT, _ROW * len(pairs))]
    for at, (score, name) in enumerate(pairs):
        y, is_decision = at * _ROW, name == str(decision)
        shown = max(0.0, min(1.0, float(score)))
        drawn.append(text(_LEFT - 8, y + 15, _short(name), anchor="end", class_="label" if is_decision else "tick"))
        told = f"{name}: {score:.4g}{', the decision' if is_decision else ''}"
        drawn.append(bar(_LEFT, y + 4, width * shown, _ROW - 8, told, class_="bar now" if is_decision else "bar other"))
        mark = " ◂" if is_decision else ""
        drawn.append(text(_LEFT + width * shown + 6, y + 15, f"{score:.3f}{mark}", class_="label"))
    told = ", ".join(f"{name} {score:.3f}" for score, name in pairs)
    return svg.picture("Scores", *drawn, width=_WIDTH, height=_ROW * len(pairs) + 2, desc=told)


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
