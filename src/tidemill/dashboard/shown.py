"""How figures and times are written: short, with their unit, the same wherever they stand."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tidemill.dashboard import svg
from tidemill.dashboard.opening import opening
from tidemill.records import Verdict

DASH = "–"
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def count(value: float | None) -> str:
    """Write how many: 950, 12.4k, 3.1M."""
    if value is None or not math.isfinite(value):
        return DASH
    for size, letter in _STEPS:
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return f"{value / size:.1f}".removesuffix(".0") + letter
    return f"{value:,.0f}"


def number(value: float | None) -> str:
    """Write a figure with four digits that count."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1e4 or float(value).is_integer() else f"{value:.4g}"


def share(value: float | None) -> str:
    """Write a part of one as a percentage."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value * 100:.1f}".removesuffix(".0") + "%"


def figure(value: float | None, unit: str = "number") -> str:
    """Write a figure of a unit: number or share."""
    return share(value) if unit == "share" else number(value)


def took(seconds: float | timedelta | None) -> str:
    """Write how long: 340 ms, 12 s, 3.5 min, 2 d."""
    if seconds is None:
        return DASH
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    if value < 1:
        return f"{value * 1000:.0f} ms"
    for size, unit in _SPANS:
        if value >= size:
            return f"{value / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value:.0f} s"


def size(value: float | None) -> str:
    """Write bytes: 12 kB, 3.4 MB."""
    if value is None:
        return DASH
    for step, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= step:
            return f"{value / step:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value:.0f} B"


def ago(at: datetime, now: datetime) -> str:
    """Write how long ago, or in how long."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    words = took(abs(round(seconds)) if abs(seconds) < 60 else float(int(abs(seconds) / 60) * 60))
    return f"{words} ago" if seconds > 0 else f"in {words}"


def tone(outcome: object) -> str:
    """Return good, bad or unsure for an outcome or the state of a version, empty for others."""
    return _TONES.get(str(outcome), "")


_TONES = {
    "pass": "good", "fail": "bad", "inconclusive": "unsure", "fire": "bad", "quiet": "good", "unknown": "unsure",
    "promoted": "good", "rejected": "bad", "rolled back": "bad", "failed": "bad", "live": "good", "candidate": "unsure",
    "open": "bad", "closed": "good", "done": "good", "running": "unsure", "expired": "unsure", "revoked": "bad",
    "silenced": "unsure", "refused": "bad", "under way": "unsure",
    "erased": "bad", "artefact deleted": "unsure",
    "right": "good", "wrong": "bad", "abstained": "unsure", "fallback": "unsure", "moved": "bad", "as usual": "good",
    "told": "good", "not told": "bad", "taken": "good", "better": "good", "worse": "bad",
}  # fmt: skip


def tag(text: str) -> str:
    """Return a short name for an element, the same for the same text."""
    return f"e{blake2b(text.encode(), digest_size=6).hexdigest()}"


def environment(folder: str) -> Environment:
    """Return the templates, which escape all they are given, and refuse a name that they are not given."""
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, auto_reload=False,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    written: dict[str, Any] = {
        "count": count,
        "number": number,
        "share": share,
        "took": took,
        "bytes": size,
        "figure": figure,
    }
    made.filters |= written | {"figure": figure, "tone": tone, "ago": ago, "verdict": Verdict.from_json, "tag": tag}
    made.globals |= {"svg": svg, "opening": opening}
    return made
