"""Small pictures drawn on the server: text that grows with the page, tells its title, takes colours from classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from tidemill.review.render.svg import Scale, bar, dot, line, path, tag, text

Figure = float | None


def picture(title: str, *inside: Markup, width: float, height: float, desc: str = "", class_: str = "") -> Markup:
    """Return a picture that says what it is, and what it shows, to those who cannot see it."""
    told = [tag("title", title), *([tag("desc", desc)] if desc else [])]
    return tag(
        "svg", *told, *inside, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img",
        aria_label=f"{title}: {desc}" if desc else title, class_=f"plot {class_}".strip(),
    )  # fmt: skip


def sparkline(values: Sequence[Figure], *, title: str, width: float = 96, height: float = 24) -> Markup:
    """Draw how a figure went, the newest at the right; a None is a gap."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if len(known) < 2:
        return Markup('<span class="muted">–</span>')
    scale = Scale(min(known), max(known) if max(known) > min(known) else min(known) + 1, height - 3, 3)
    step = (width - 6) / max(len(values) - 1, 1)
    at = [(3 + i * step, None if v is None else scale(v)) for i, v in enumerate(values)]
    drawn = [path(run, class_="spark") for run in _runs(at)]
    last = next((x, y) for x, y in reversed(at) if y is not None)
    drawn.append(tag("circle", cx=last[0], cy=last[1] or 0.0, r=2.2, class_="spark-end"))
    desc = f"from {known[0]:.4g} to {known[-1]:.4g}, lowest {min(known):.4g}, highest {max(known):.4g}"
    return picture(title, *drawn, width=width, height=height, desc=desc, class_="small")


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Return the stretches between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def history(outcomes: Sequence[str], *, title: str, height: float = 18) -> Markup:
    """Draw what came of the last times, one small bar each: their tone is good, bad, unsure or empty."""
    if not outcomes:
        return Markup('<span class="muted">–</span>')
    heights = {"good": height, "bad": height * 0.55, "unsure": height * 0.75}
    drawn = [
        bar(i * 7, height - (high := heights.get(one, height * 0.3)), 5, high, one or "none", class_=f"tick {one}")
        for i, one in enumerate(outcomes)
    ]
    told = ", ".join(f"{outcomes.count(one)} {one or 'none'}" for one in dict.fromkeys(outcomes))
    return picture(title, *drawn, width=len(outcomes) * 7, height=height, desc=told, class_="small")


def interval(
    value: Figure, low: Figure, high: Figure, *, least: float, most: float, title: str, mark: Figure = None,
    tone: str = "", width: float = 160, height: float = 20,
) -> Markup:  # fmt: skip
    """Draw a figure with its interval between `least` and `most`; `mark` is what to compare it with."""
    if value is None:
        return Markup('<span class="muted">–</span>')
    scale, middle = Scale(least, most if most > least else least + 1, 4, width - 4), height / 2
    drawn = [line(4, middle, width - 4, middle, class_="track")]
    if mark is not None:
        drawn.append(line(scale(mark), 2, scale(mark), height - 2, class_="zero"))
    if low is not None and high is not None:
        drawn.append(line(scale(low), middle, scale(high), middle, class_=f"span {tone}"))
    drawn.append(dot(scale(value), middle, 4, f"{value:.4g}", class_=f"dot {tone}"))
    told = f"{value:.4g}" + ("" if low is None or high is None else f", interval {low:.4g} to {high:.4g}")
    return picture(title, *drawn, width=width, height=height, desc=told, class_="small")


def histograms(
    names: Sequence[str], reference: Sequence[float], now: Sequence[float], *, title: str, width: float = 420,
    height: float = 140,
) -> Markup:  # fmt: skip
    """Draw two distributions over the same bins side by side; both are shares."""
    most = max([*reference, *now, 1e-9])
    scale, step, foot = Scale(0, most, height - 22, 6), width / max(len(names), 1), height - 22
    drawn: list[Markup] = [line(0, foot, width, foot, class_="rule")]
    every = max(1, math.ceil(len(names) / 8))
    for i, name in enumerate(names):
        x, half = i * step, step * 0.4
        for value, who, shift in ((reference[i], "reference", 0.1), (now[i], "now", 0.5)):
            told = f"{name}, {who}: {value:.1%}"
            drawn.append(bar(x + shift * step, scale(value), half, foot - scale(value), told, class_=f"bar {who}"))
        if i % every == 0:
            drawn.append(text(x + step / 2, height - 6, name[:12], anchor="middle", class_="tick"))
    return picture(title, *drawn, width=width, height=height, desc="reference beside now, shares by bin")


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str, cell: float = 56) -> Markup:
    """Draw how often each true class (rows) was answered as each class (columns); shade is the share of the row."""
    left, top = 96.0, 30.0
    drawn = [text(left + (j + 0.5) * cell, 20, n[:8], anchor="middle", class_="tick") for j, n in enumerate(names)]
    for i, name in enumerate(names):
        total, y = max(sum(counts[i]), 1), top + i * cell
        drawn.append(text(left - 8, y + cell / 2 + 4, name[:13], anchor="end", class_="tick"))
        for j, value in enumerate(counts[i]):
            level = math.ceil(8 * value / total)
            told = f"{name} answered as {names[j]}: {value:,} of {total:,}"
            drawn.append(bar(left + j * cell + 1, y + 1, cell - 2, cell - 2, told, class_=f"heat heat{level}"))
            drawn.append(text(left + (j + 0.5) * cell, y + cell / 2 + 4, f"{value:,}", anchor="middle",
                              class_="heat-text strong" if level > 4 else "heat-text"))  # fmt: skip
    size = len(names) * cell
    return picture(title, *drawn, width=left + size + 4, height=top + size + 4, desc="rows are true, columns answered")


def reliability(points: Sequence[tuple[float, float, int]], *, title: str, size: float = 260) -> Markup:
    """Draw how often it is right by how sure it says it is: (confidence, accuracy, rows)."""
    left, across, up = 40.0, Scale(0, 1, 40, size - 8), Scale(0, 1, size - 30, 8)
    drawn = [line(across(0), up(v), across(1), up(v)) for v in (0.0, 0.5, 1.0)]
    drawn += [text(left - 6, up(v) + 4, f"{v:g}", anchor="end", class_="tick") for v in (0.0, 0.5, 1.0)]
    drawn += [text(across(v), size - 14, f"{v:g}", anchor="middle", class_="tick") for v in (0.0, 0.5, 1.0)]
    drawn.append(line(across(0), up(0), across(1), up(1), class_="zero"))
    most = max((n for _, _, n in points), default=1)
    drawn.append(path([(across(c), up(a)) for c, a, _ in points], class_="spark"))
    drawn += [dot(across(c), up(a), 3 + 4 * (n / most) ** 0.5, f"says {c:.3g}, is right {a:.3g}, {n:,} rows")
              for c, a, n in points]  # fmt: skip
    return picture(title, *drawn, width=size, height=size, desc="across: how sure; up: how often right")


def pareto(
    points: Sequence[tuple[float, float, str, bool]], *, title: str, across: str, up: str, width: float = 480,
    height: float = 280,
) -> Markup:  # fmt: skip
    """Draw choices as (cost, value, name, is on the front); better is up and left."""
    h, v = Scale.around([p[0] for p in points], 56, width - 16), Scale.around([p[1] for p in points], height - 40, 12)
    drawn = [line(56, v(t), width - 16, v(t)) for t in v.ticks(5)]
    drawn += [text(50, v(t) + 4, f"{t:.3g}", anchor="end", class_="tick") for t in v.ticks(5)]
    drawn += [text(h(t), height - 22, f"{t:,.4g}", anchor="middle", class_="tick") for t in h.ticks(5)]
    drawn += [text((56 + width) / 2, height - 4, across, anchor="middle", class_="tick")]
    drawn += [text(60, 12, up, class_="tick")]
    front = sorted((p for p in points if p[3]), key=lambda p: p[0])
    drawn.append(path([(h(p[0]), v(p[1])) for p in front], class_="front"))
    for cost, value, name, is_front in points:
        kind = "dot good" if is_front else "dot other"
        drawn.append(dot(h(cost), v(value), 5, f"{name}: {up} {value:.4g}, {across} {cost:.4g}", class_=kind))
        drawn.append(text(h(cost) + 8, v(value) + 4, name[:24], class_="label"))
    return picture(title, *drawn, width=width, height=height, desc=f"{up} by {across}, the front joined by a line")
