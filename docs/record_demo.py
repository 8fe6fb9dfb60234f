"""Record `tidemill demo` as docs/demo.svg: `python docs/record_demo.py`, about two minutes.

It runs the real command and draws what it printed. Of the lines about quality only the last before each event is kept,
verdicts that leave everything open are left out, and long reasons are cut to two lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH, MAX_LINES = 110, 2
PICTURE = Path(__file__).with_name("demo.svg")

_TIMED = re.compile(r" *\d+\.\d s  ")
_QUALITY = re.compile(r" *\d+\.\d s +\d+ answered \|")
_FONTS = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)  # a picture in a page may not fetch them


def main() -> None:
    """Run the demo, and draw it."""
    command = [sys.executable, "-m", "tidemill.cli", "demo"]
    # As wide as it likes: one line of output is then one message.
    env = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "10000"}
    printed = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    PICTURE.write_text(draw(telling(map(Text.from_ansi, printed.splitlines()))))


def telling(messages: Iterable[Text]) -> Iterator[Text]:
    """Leave out verdicts that are inconclusive, and all but the last of consecutive lines about quality."""
    kept = [message for message in messages if "INCONCLUSIVE" not in message.plain[:40]]
    for message, following in pairwise([*kept, Text()]):
        if not (_is_quality(message) and _is_quality(following)):
            yield message


def _is_quality(message: Text) -> bool:
    return _QUALITY.match(message.plain) is not None


def draw(messages: Iterable[Text]) -> str:
    """Return the picture of a terminal that shows the messages."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, highlight=False)
    console.print(Text.assemble(("$ ", "dim"), "tidemill demo"))
    for message in messages:
        for line in cut(message, console):
            console.print(line)
    return console.export_svg(
        title="tidemill demo", unique_id="demo", code_format=_FONTS.sub("", CONSOLE_SVG_FORMAT), font_aspect_ratio=0.61
    )


def cut(message: Text, console: Console) -> list[Text]:
    """Return the message in lines of the screen's width, at most two; what is cut off is marked."""
    indent = 33 if _TIMED.match(message.plain) and not _is_quality(message) else 0
    first, *rest = message.wrap(console, WIDTH) if not indent else _hanging(message, console, indent)
    lines = [first, *rest][:MAX_LINES]
    if len(rest) >= MAX_LINES:
        lines[-1].truncate(WIDTH - 2)
        lines[-1].append(" …")
    return lines


def _hanging(message: Text, console: Console, indent: int) -> list[Text]:
    """Wrap a verdict so that its reason stands in a column of its own."""
    head, reason = message[:indent], message[indent:]
    lines = reason.wrap(console, WIDTH - indent)
    return [Text.assemble(head if i == 0 else " " * indent, line) for i, line in enumerate(lines)]


if __name__ == "__main__":
    main()
