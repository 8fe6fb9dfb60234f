"""What reports and verdicts quote of a person's rows, taken out of them again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from sqlalchemy import Connection

from tidemill.records import Json
from tidemill.stores.audit import MOST_WORDS
from tidemill.stores.texts import change_audit, change_reports, change_texts, change_texts_about, walk

INSTEAD = "(forgotten)"
_QUOTES = re.compile(r"\w+ (has|is) ['\"]")  # a phrase about a word or a value: `text has 'word' (25%, of all 3%)`
_SUCH_AS = re.compile(r"(\d rows?), such as [^;]*")  # what a check of the data refused: values, and an example's id
_WORD = re.compile(r"[\w-]+")  # as ids are, but for what somebody imported
_CUT = re.compile(r"(, line \d+: )(?:(?!, wanted ).)*\Z", re.DOTALL)  # a row that the audit log kept the beginning of
_BEHIND_ROW = {"(": ")", ": ": ", wanted "}  # in a sentence a row stands in brackets, or it was a case for a suite
_BEFORE_ROW = re.compile("|".join(map(re.escape, _BEHIND_ROW)))
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
    hide = _hiding(ids, {*shown, *(_made_of(conn, project, frozenset(ids)) if ids else ())})
    changed = change_texts(conn, project, hide) if ids or shown else 0
    changed += change_audit(conn, project, lambda text: hide(_without_cut(text))) if ids or shown else 0
    changed += change_texts_about(conn, project, datasets, _without_values)

    def clean(report: Json) -> Json:
        report = walk(report, hide)
        return _without_words(walk(report, _without_values)) if report.get("dataset") in datasets else report

    return changed + change_reports(conn, project, clean)


def _made_of(conn: Connection, project: str, ids: Collection[str]) -> set[str]:
    """Return the rows that suites made of these examples, with a typo say, as reports quote them."""
    found = set[str]()

    def look(report: Json) -> Json:
        cases = (case for suite in report.get("suites", ()) for case in suite["failed"])
        found.update(case["inputs"] for case in cases if case["id"] in ids)
        return report

    change_reports(conn, project, look)
    return found


def _hiding(ids: Collection[str], shown: Collection[str]) -> Callable[[str], str]:
    """Return what takes ids and rows out of a text; what it costs does not grow with how many there are."""
    rows, words = frozenset(shown), frozenset(id_ for id_ in ids if _WORD.fullmatch(id_))
    longest, instead = max(map(len, rows), default=0), INSTEAD.strip("()")
    odd = sorted(set(ids) - words)
    found = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, odd))})(?![\w-])") if odd else None

    def hide(text: str) -> str:
        if text in rows:
            return INSTEAD
        text = _without_rows(text, rows, longest, instead) if rows else text
        text = text if found is None else found.sub(instead, text)
        return _WORD.sub(lambda word: instead if word[0] in words else word[0], text) if words else text

    return hide


def _without_rows(text: str, rows: Collection[str], longest: int, instead: str) -> str:
    """Return a sentence without the rows that it quotes, none of which is longer than so many characters."""
    out, done = [], 0
    for before in _BEFORE_ROW.finditer(text):
        at, behind = before.end(), _BEHIND_ROW[before[0]]
        end = text.find(behind, at, at + longest + len(behind)) if at >= done else -1
        while end >= 0 and text[at:end] not in rows:
            end = text.find(behind, end + 1, at + longest + len(behind))
        if end >= 0:
            out += [text[done:at], instead]
            done = end
    return "".join([*out, text[done:]])


def _without_cut(text: str) -> str:
    """Return words of the audit log without the row that they break off in: nobody can say any more whose it is."""
    return _CUT.sub(rf"\1{INSTEAD}", text) if len(text) >= MOST_WORDS else text


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
