"""Markdown as HTML: headings, paragraphs, lists and tables of what Tidemill writes; all else is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

_HEAD = re.compile(r"(#{1,4}) +(.+)")
_RULE = re.compile(r"\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?")
_ESCAPED = re.compile(r"\\([\\`*\[\]<|~&_#>+\-=.)])")
_SPLIT = re.compile(r"(?<!\\)\|")


def markdown(text: str) -> Markup:
    """Return Markdown as HTML; text is escaped, and markup in it stays text."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return Markup("\n").join(_block([line.strip() for line in block.splitlines()]) for block in blocks if block.strip())


def _block(lines: Sequence[str]) -> Markup:
    if found := _HEAD.fullmatch(lines[0]):
        head = Markup("<h3>{}</h3>").format(_plain(found[2]))
        return head + _block(lines[1:]) if lines[1:] else head
    if len(lines) > 1 and lines[0].startswith("|") and _RULE.fullmatch(lines[1]):
        return _table(lines)
    if all(line.startswith("- ") for line in lines):
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(_plain(line[2:])) for line in lines)
        )
    return Markup("<p>{}</p>").format(Markup(" ").join(map(_plain, lines)))


def _table(lines: Sequence[str]) -> Markup:
    right = [cell.strip().endswith("-:") for cell in _cells(lines[1])]
    head, rows = _row(lines[0], right, "th"), [_row(line, right, "td") for line in lines[2:]]
    return Markup(
        '<div class="table-box" tabindex="0" role="region" aria-label="Card"><table class="table">'
        "<thead>{}</thead><tbody>{}</tbody></table></div>"
    ).format(head, Markup("").join(rows))


def _row(line: str, right: Sequence[bool], name: str) -> Markup:
    cells = [
        Markup("<{0}{1}>{2}</{0}>").format(
            Markup(name), Markup(' class="number"') if at < len(right) and right[at] else "", _plain(cell.strip())
        )
        for at, cell in enumerate(_cells(line))
    ]
    return Markup("<tr>{}</tr>").format(Markup("").join(cells))


def _cells(line: str) -> list[str]:
    return _SPLIT.split(line.strip().removeprefix("|").removesuffix("|"))


def _plain(text: str) -> Markup:
    return escape(_ESCAPED.sub(r"\1", text))
