"""Drawing plots as SVG text: elements, scales and ticks. All text is escaped, and colours are classes of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tidemill.review.render.section import clean

Attribute = str | float | int


def tag(name: str, *inside: Markup | str, **attributes: Attribute) -> Markup:
    """Return one element. `_` at the end of an attribute's name is dropped, one inside it is a hyphen."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    body = Markup("").join(part if isinstance(part, Markup) else escape(clean(part)) for part in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, body)


def _value(value: Attribute) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def picture(title: str, *inside: Markup, width: float, height: float) -> Markup:
    """Return a plot that grows with the page, and says what it is to those who cannot see it."""
    size = f"0 0 {width:g} {height:g}"
    return tag("svg", tag("title", title), *inside, viewBox=size, width=width, height=height, role="img", class_="plot")


def text(x: float, y: float, words: str, *, anchor: str = "start", class_: str = "label") -> Markup:
    """Return words at a point, `start`, `middle` or `end` of which is there."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str = "rule") -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, radius: float, words: str, *, class_: str = "dot") -> Markup:
    """Return a point that says `words` when it is pointed at."""
    return tag("circle", tag("title", words), cx=x, cy=y, r=radius, class_=class_)


def bar(x: float, y: float, width: float, height: float, words: str, *, class_: str = "bar") -> Markup:
    """Return a bar that says `words` when it is pointed at."""
    return tag("rect", tag("title", words), x=x, y=y, width=max(0.0, width), height=height, rx=2, class_=class_)


def path(points: Sequence[tuple[float, float]], *, class_: str) -> Markup:
    """Return a line through points."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """Return a scale that shows all values, with a little room."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within it, at most `most` and one."""
        raw = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * k for k in (1, 2, 5, 10) if size * k >= raw)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]
