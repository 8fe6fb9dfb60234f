"""A report as Markdown, for pull requests and mails."""

from __future__ import annotations

import re

from tidemill.review.render.section import Section, Table
from tidemill.review.render.sections import sections
from tidemill.review.report import Report

_SPECIAL = re.compile(r"([\\`*\[\]<|~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_]))")
_BEGIN = re.compile(r"^([#>]|[-+](?=\s|$)|[-=](?=[-=]*$)|\d{1,9}(?=[.)](?:\s|$)))")  # a heading, quote, rule or list


def markdown(report: Report) -> str:
    """Return a page of Markdown (with tables, as GitHub reads them); no text of the report is taken for markup."""
    first, *others = sections(report)
    parts = [f"# {escaped(first.title)}", _list(first), *(_section(section) for section in others)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> str:
    body = _list(section) if section.key == "facts" else "\n\n".join(map(escaped, section.says))
    return "\n\n".join(part for part in (f"## {escaped(section.title)}", body, *map(_table, section.tables)) if part)


def _list(section: Section) -> str:
    return "\n".join(f"- {escaped(sentence)}" for sentence in section.says)


def _table(table: Table) -> str:
    lines = [table.columns, tuple("--:" if i in table.right else "---" for i in range(len(table.columns)))]
    head = [f"| {' | '.join(map(escaped, lines[0]))} |", f"|{'|'.join(lines[1])}|"]
    return "\n".join([*head, *(f"| {' | '.join(map(escaped, row))} |" for row in table.rows)])


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _BEGIN.sub(_begun, _SPECIAL.sub(r"\\\1", text))


def _begun(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"
