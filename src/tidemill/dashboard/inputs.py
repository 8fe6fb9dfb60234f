"""Inputs of a request as people see them, by their types: pictures, text, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from tidemill.dashboard.shown import number
from tidemill.review.render.svg import tag
from tidemill.schema import Array, Image, Number, Schema, Sensitive, Tensor
from tidemill.stores.png import data_url

_MOST_PIXELS, _LEAST_PIXELS = 512, 64
_MOST_CHARS = 20_000
_MOST_NUMBERS = 64
_THUMBNAIL = 40
PIECE_BYTES = 4 << 20
"""How much of the rows of a file is in memory at a time."""
_MOST_WRITTEN = 10_000  # characters


@dataclass(frozen=True, kw_only=True)
class ShownInput:
    """One input: as a `picture`, as `text`, or missing, with a line on what it is."""

    name: str
    kind: Literal["picture", "text", "figure", "missing"]
    text: str = ""
    url: str = ""
    note: str = ""


@dataclass
class Room:
    """How many bytes of inputs a part of a page may still show."""

    left: int = 8 << 20

    def take(self, num: int) -> bool:
        """Take some of it, and return whether there was so much."""
        if num > self.left:
            return False
        self.left -= num
        return True


def shown_inputs(schema: Schema, row: Mapping[str, Any], room: Room | None = None) -> list[ShownInput]:
    """Return the declared inputs of a row with canonical values, in the order of the declaration.

    What does not fit into the room left is not there, and says so; a picture is shown smaller before that.
    """
    room = Room() if room is None else room
    return [shown_input(name, kind, row.get(name), room) for name, kind in schema.inputs.items()]


def shown_input(name: str, kind: object, value: Any, room: Room) -> ShownInput:
    """Return one input."""
    shown = _shown_picture(name, kind, value, room) if isinstance(kind, Image) else _shown(name, kind, value)
    if shown.kind == "picture" or room.take(len(shown.text.encode("utf-8", "replace"))):
        return shown
    return _left_out(name, shown.note)


def _left_out(name: str, note: str) -> ShownInput:
    said = "left out: what stands before it fills the page. Its prediction, or its example, shows it alone"
    return ShownInput(name=name, kind="figure", text=said, note=note)


def _shown_picture(name: str, kind: Image, value: Any, room: Room) -> ShownInput:
    if value is None:
        return ShownInput(name=name, kind="missing", note="Image")
    pixels, note, most = _pixels(kind, value), f"Image {'×'.join(str(side) for side in kind.shape)}", _MOST_PIXELS
    while most >= _LEAST_PIXELS:
        url = data_url(_strided(pixels, most))
        if room.take(len(url)):
            return ShownInput(name=name, kind="picture", url=url, note=note)
        most //= 2
    return _left_out(name, note)


def _shown(name: str, kind: object, value: Any) -> ShownInput:
    what = type(kind).__name__
    if value is None:
        return ShownInput(name=name, kind="missing", note=what)
    if isinstance(kind, Tensor):
        return ShownInput(name=name, kind="text", text=_numbers(value), note=f"Tensor {list(kind.shape)}")
    if isinstance(kind, Number):
        return ShownInput(name=name, kind="figure", text=number(value), note=what)
    text = str(value)
    is_short = isinstance(kind, Sensitive) or (len(text) <= 40 and "\n" not in text)
    cut = f", {len(text):,} characters, cut" if len(text) > _MOST_CHARS else ""
    note = f"{'keyed hash' if isinstance(kind, Sensitive) else what}{cut}"
    return ShownInput(name=name, kind="figure" if is_short else "text", text=text[:_MOST_CHARS], note=note)


def thumbnail(kind: object, value: Any, name: str) -> Markup | None:
    """Return a small picture of an image, None where there is none."""
    if not isinstance(kind, Image) or value is None:
        return None
    url = data_url(_strided(_pixels(kind, value), _THUMBNAIL))
    return tag("img", src=url, alt=name, class_="thumbnail", width=_THUMBNAIL, height=_THUMBNAIL)


def brief(value: Any, most: int = 80) -> str | None:
    """Return a value in a few words, for a table."""
    if value is None or isinstance(value, bytes):
        return None
    text = number(value) if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def written(value: Any) -> str | float | bool | None:
    """Return a value as it is, figures as figures and a long text cut: for a file."""
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _MOST_WRITTEN else f"{text[: _MOST_WRITTEN - 1]}…"


def _pixels(kind: Image, value: bytes) -> Array:
    return np.frombuffer(value, dtype=np.uint8).reshape(kind.shape)


def _strided(pixels: Array, most: int) -> Array:
    """Return an image of at most so many pixels a side, by leaving some out."""
    step = math.ceil(max(pixels.shape[:2]) / most)
    return np.ascontiguousarray(pixels[::step, ::step])


def _numbers(value: bytes) -> str:
    numbers = np.frombuffer(value, dtype="<f4")
    shown = " ".join(f"{one:.4g}" for one in numbers[:_MOST_NUMBERS])
    more = f" … {len(numbers):,} numbers" if len(numbers) > _MOST_NUMBERS else ""
    known = numbers[np.isfinite(numbers)]
    told = f"\nmean {known.mean():.4g}, least {known.min():.4g}, most {known.max():.4g}" if len(known) else ""
    return f"{shown}{more}{told}"
