"""What reports and verdicts quote of a person's rows, taken out of them again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from sqlalchemy import Connection

from tidemill.records import Json
from tidemill.stores.texts import change_reports, change_texts, change_texts_about, walk

INSTEAD = "(forgotten)"
_QUOTES = re.compile(r"\w+ (has|is) ['\"]")  # a phrase about a word or a value: `text has 'word' (25%, of all 3%)`
_SUCH_AS = re.compile(r"(\d rows?), such as [^;]*")  # what a check of the data refused: values, and an example's id
_WORDY = ("words", "values", "hashed values")


def unquote(
    conn: Connection, project: str, *, ids: Collection[str], shown: Collection[str], datasets: Collection[str]
) -> int:
    """Take a person's rows out of what is written of the project; return how many rows of the catalog changed.

    Args:
        conn: a write transaction.
        project: whose.
        ids: of their examples.
        shown: their rows, as reports of suites show them.
        datasets: those that hold their examples. Of reports about these, all words and values that they quote go, as
            nobody can say any more whose a word was.
    """
    hide = _hiding(ids, shown)
    changed = change_texts(conn, project, hide) if ids or shown else 0
    changed += change_texts_about(conn, project, datasets, _without_values)

    def clean(report: Json) -> Json:
        report = walk(report, hide)
        return _without_words(walk(report, _without_values)) if report.get("dataset") in datasets else report

    return changed + change_reports(conn, project, clean)


def _hiding(ids: Collection[str], shown: Collection[str]) -> Callable[[str], str]:
    parts = [rf"(?<![\w-]){re.escape(id_)}(?![\w-])" for id_ in ids]
    parts += [rf"(?<=\(){re.escape(row)}(?=\))" for row in shown]  # in a sentence a row stands in brackets
    found, rows = re.compile("|".join(parts)) if parts else None, frozenset(shown)

    def hide(text: str) -> str:
        if text in rows:
            return INSTEAD
        return text if found is None else found.sub(INSTEAD.strip("()"), text)

    return hide


def _without_values(text: str) -> str:
    return _SUCH_AS.sub(r"\1", text)


def _without_words(report: Json) -> Json:
    failures = [
        {**group, "typical": [phrase for phrase in group["typical"] if not _QUOTES.match(phrase)]}
        for group in report.get("failures", ())
    ]
    changes = [
        {**one, "before": INSTEAD, "after": INSTEAD} if one["what"] in _WORDY else one
        for one in report.get("changes", ())
    ]
    data = [
        {**checked, "breaches": [{**one, "values": []} for one in checked["breaches"]]}
        for checked in report.get("data", ())
    ]
    cleaned = {"failures": failures, "changes": changes, "data": data}
    return {**report, **{name: part for name, part in cleaned.items() if part}}
