"""The plots of a report, each from the same numbers as the table below it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tidemill.review.render.svg import Scale, bar, dot, line, path, picture, text
from tidemill.review.report import Report
from tidemill.strategy.evidence import ALL, Calibration, Cell, number

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _FOOT = 720, 26, 190, 90, 10, 34
_MOST_CHARS, _CHAR = 26, 6.5  # of a label, and the width of one


def plots(report: Report) -> dict[str, Markup]:
    """Return the plots by the key of their section."""
    found = {
        "baselines": _baselines(report),
        "calibration": _calibration(report.calibration),
        "failures": _bars(report),
    }
    cells = [cell for cell in report.cells if not cell.period]
    for metric in dict.fromkeys(cell.metric for cell in cells):
        found[f"metric:{metric}"] = forest([cell for cell in cells if cell.metric == metric])
    timed = [cell for cell in report.cells if cell.period]
    for metric in dict.fromkeys(cell.metric for cell in timed):
        found[f"periods:{metric}"] = over_time([c for c in timed if c.metric == metric and c.cohort == ALL])
    return {key: plot for key, plot in found.items() if plot is not None}


def forest(cells: Sequence[Cell]) -> Markup | None:
    """Draw an interval per cohort: of the gain over the live version, or of the value before there is one."""
    gains = [cell for cell in cells if cell.gain is not None]
    rows = [
        (
            c.cohort,
            float(c.gain or 0),
            c.low,
            c.high,
            c.outcome,
            f"{c.cohort}: {number(c.gain, sign=True)}, {c.n:,} rows",
        )
        for c in gains
    ] or [
        (c.cohort, float(c.candidate), c.candidate_low, c.candidate_high, "", f"{c.cohort}: {number(c.candidate)}")
        for c in cells
        if c.candidate is not None
    ]
    if not rows:
        return None
    ends = [v for row in rows for v in row[1:4] if isinstance(v, float)] + ([0.0] if gains else [])
    scale, height = Scale.around(ends, _LEFT, _WIDTH - _RIGHT), _TOP + len(rows) * _ROW + _FOOT
    title = "Gain over the live version by cohort" if gains else "Value by cohort, with its interval"
    drawn = [_row(row, _TOP + (at + 0.5) * _ROW, scale, sign=bool(gains)) for at, row in enumerate(rows)]
    zero = [line(scale(0), _TOP, scale(0), height - _FOOT, class_="zero")] if gains else []
    under = "worse \N{LEFTWARDS ARROW} gain \N{RIGHTWARDS ARROW} better" if gains else cells[0].metric
    axis = _axis(scale, height, under, sign=bool(gains))
    return picture(title, *axis, *zero, *drawn, width=_WIDTH, height=height)


_Row = tuple[str, float, float | None, float | None, str, str]


def _row(row: _Row, y: float, scale: Scale, *, sign: bool) -> Markup:
    name, value, low, high, outcome, words = row
    span = [] if low is None or high is None else [line(scale(low), y, scale(high), y, class_=f"span {outcome}")]
    parts = [
        text(_LEFT - 12, y + 4, _cut(name), anchor="end"), *span,
        dot(scale(value), y, 5, words, class_=f"dot {outcome}"),
        text(_WIDTH - 6, y + 4, number(value, sign=sign), anchor="end", class_="value"),
    ]  # fmt: skip
    return Markup("").join(parts)


def _axis(scale: Scale, height: float, under: str, *, sign: bool = False) -> list[Markup]:
    bottom = height - _FOOT
    marks = [
        Markup("").join(
            [
                line(scale(v), _TOP, scale(v), bottom),
                text(scale(v), bottom + 14, number(v, sign=sign and v != 0), anchor="middle", class_="tick"),
            ]
        )
        for v in scale.ticks()
    ]
    middle = (scale.start + scale.end) / 2
    return [*marks, text(middle, height - 4, under, anchor="middle", class_="tick")]


def over_time(cells: Sequence[Cell]) -> Markup | None:
    """Draw a metric by period: the candidate with its interval, and the live version."""
    known = [cell for cell in cells if cell.candidate is not None]
    if len(known) < 2:
        return None
    height, left, right = 240.0, 60.0, _WIDTH - 20.0
    ends = [v for c in known for v in (c.candidate, c.candidate_low, c.candidate_high, c.live) if v is not None]
    scale = Scale.around(ends, height - 50, 24)
    places = [left + (at + 0.5) * (right - left) / len(known) for at in range(len(known))]
    grid = [
        Markup("").join(
            [
                line(left, scale(v), right, scale(v)),
                text(left - 8, scale(v) + 4, number(v), anchor="end", class_="tick"),
            ]
        )
        for v in scale.ticks(5)
    ]
    most = int((right - left) / len(known) / _CHAR)
    names = [
        text(x, height - 30, _cut(c.period, most), anchor="middle", class_="tick")
        for x, c in zip(places, known, strict=True)
    ]
    drawn = [
        *_line(known, places, scale, "live"),
        *_spans(known, places, scale),
        *_line(known, places, scale, "candidate"),
    ]
    legend = [text(left, 14, "candidate", class_="label candidate")]
    if any(c.live is not None for c in known):
        legend.append(text(left + 90, 14, "live", class_="label live"))
    title = f"{known[0].metric} on {known[0].cohort} over time"
    return picture(title, *grid, *names, *drawn, *legend, width=_WIDTH, height=height)


def _spans(cells: Sequence[Cell], places: Sequence[float], scale: Scale) -> list[Markup]:
    return [
        line(x, scale(c.candidate_low), x, scale(c.candidate_high), class_="span")
        for x, c in zip(places, cells, strict=True)
        if c.candidate_low is not None and c.candidate_high is not None
    ]


def _line(cells: Sequence[Cell], places: Sequence[float], scale: Scale, who: str) -> list[Markup]:
    points = [(x, scale(v), f"{who}, {c.period}: {number(v)}, {c.n:,} rows")
              for x, c in zip(places, cells, strict=True) if (v := getattr(c, who)) is not None]  # fmt: skip
    if not points:
        return []
    return [
        path([(x, y) for x, y, _ in points], class_=f"line {who}"),
        *(dot(x, y, 4, words, class_=f"dot {who}") for x, y, words in points),
    ]


def _calibration(found: Calibration | None) -> Markup | None:
    """Draw how often the candidate is right beside how sure it says it is."""
    if found is None or not found.bins:
        return None
    size, left, top = 300.0, 50.0, 14.0
    across, up = Scale(0, 1, left, size - 10), Scale(0, 1, size - 40, top)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    grid = [line(across(v), up(0), across(v), up(1)) for v in ticks] + [
        line(left, up(v), size - 10, up(v)) for v in ticks
    ]
    marks = [text(across(v), size - 24, number(v), anchor="middle", class_="tick") for v in ticks]
    marks += [text(left - 6, up(v) + 4, number(v), anchor="end", class_="tick") for v in ticks]
    most = max(b.n for b in found.bins)
    dots = [
        dot(across(b.confidence), up(b.accuracy), 3 + 4 * (b.n / most) ** 0.5,
            f"says {number(b.confidence)}, is right {number(b.accuracy)}, {b.n:,} rows", class_="dot candidate")
        for b in found.bins
    ]  # fmt: skip
    ideal = line(across(0), up(0), across(1), up(1), class_="zero")
    told = [text((left + size) / 2, size - 6, "how sure it says it is", anchor="middle", class_="tick")]
    told += [text(left + 6, up(1) + 14, "how often it is right", class_="tick")]
    title = "How often it is right, by how sure it says it is"
    return picture(title, *grid, ideal, *marks, *told, *dots, width=size, height=size)


def _baselines(report: Report) -> Markup | None:
    cell = next((c for c in report.cells if c.cohort == ALL and not c.period and c.baselines), None)
    if cell is None or cell.candidate is None:
        return None
    values = {"candidate": cell.candidate, "live": cell.live, **cell.baselines}
    rows = [(name, value, f"{number(value)}") for name, value in values.items() if value is not None]
    return _bar_plot(f"{cell.metric} against baselines", rows, cell.metric)


def _bars(report: Report) -> Markup | None:
    rows = [
        (f"{at}. {group.size:,} rows", group.loss_share, f"{group.loss_share:.1%}")
        for at, group in enumerate(report.failures, start=1)
    ]
    return _bar_plot("Groups of like mistakes, by their share of the loss", rows, "share of loss") if rows else None


def _bar_plot(title: str, rows: Sequence[tuple[str, float, str]], under: str) -> Markup:
    values = [value for _, value, _ in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    scale = Scale(low, high if high > low else low + 1.0, _LEFT, _WIDTH - _RIGHT)
    height = _TOP + len(rows) * _ROW + _FOOT
    drawn = []
    for at, (name, value, told) in enumerate(rows):
        y, ends = _TOP + at * _ROW, sorted((scale(0), scale(value)))
        kind = name if name in ("candidate", "live") else "other"
        drawn += [
            text(_LEFT - 12, y + 17, _cut(name), anchor="end"),
            bar(ends[0], y + 5, ends[1] - ends[0], _ROW - 10, f"{name}: {told}", class_=f"bar {kind}"),
            text(_WIDTH - 6, y + 17, told, anchor="end", class_="value"),
        ]
    return picture(title, *_axis(scale, height, under), *drawn, width=_WIDTH, height=height)


def _cut(words: str, most: int = _MOST_CHARS) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
