"""The file of a suite: JSON lines that people write and `tidemill suite add` appends to, kept under version control.

A line is `{"inputs": {...}, "label": ..., "note": "why it is here", "from": {...}}`; the last two may be missing.
Images and tensors are nested lists or base64, sensitive inputs the hashes that the log has.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.errors import Conflict, InvalidInput, ProjectError
from tidemill.fingerprint import digest
from tidemill.records import Json
from tidemill.schema import Schema
from tidemill.stores.folders import whole_file
from tidemill.suites import Case, Inputs, canonical, to_lines

_KEYS = ("inputs", "label", "note", "from")


def read_cases(path: Path, schema: Schema) -> tuple[Case, ...]:
    """Return the cases of a file, in order; an empty file has none.

    Raises:
        ProjectError: there is no such file, or a line is no case; the message names the line and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "make an empty one, which `tidemill suite add NAME --from-prediction ID` adds to, or mend the path"
        raise ProjectError(f"the suite's file {str(path)!r} does not exist.", hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _cannot_read(path, error) from error
    numbered = enumerate(text.split("\n"), start=1)
    cases = [_case(line, f"{path.name}, line {number}", number, schema) for number, line in numbered if line.strip()]
    _check_repeats(path, cases)
    return tuple(cases)


def _case(line: str, where: str, number: int, schema: Schema) -> Case:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{where}: it is not JSON: {error}.", "write one JSON object per line") from error
    if not isinstance(body, dict) or not {"inputs", "label"} <= set(body):
        raise ProjectError(f"{where}: it has no `inputs` or no `label`.", 'write {"inputs": {...}, "label": ...}')
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        raise ProjectError(f"{where}: {unknown[0]!r} is no part of a case.", f"a case has {', '.join(_KEYS)}")
    try:
        inputs = canonical(body["inputs"], schema)
        label = schema.output.parse_label(body["label"])
    except InvalidInput as error:
        raise ProjectError(f"{where}: {error.message}", error.hint) from error
    return Case(id=f"line {number}", inputs=inputs, label=label, note=str(body.get("note") or ""))


def _check_repeats(path: Path, cases: list[Case]) -> None:
    """Refuse two lines that want different answers to the same inputs: no model can pass both."""
    first: dict[str, Case] = {}
    for case in cases:
        before = first.setdefault(_key(case), case)
        if before.label != case.label:
            problem = f"{path.name}, {case.id}: the inputs of {before.id} with another label, {case.label!r}"
            raise ProjectError(f"{problem} and not {before.label!r}.", "keep the one that is right")


def add_case(path: Path, schema: Schema, case: Case, *, origin: Json) -> str:
    """Append a case with where it came from, and return its id; one that is there already keeps its line.

    The file is whole at any moment, and two who add at once both succeed.

    Raises:
        Conflict: the file has these inputs with another label.
        ProjectError: the file cannot be read or written.
    """
    body = {"inputs": to_lines(case.inputs), "label": case.label, "note": case.note or None, "from": origin}
    line = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            there = read_cases(path, schema) if path.exists() else ()
            known = next((c for c in there if _key(c) == _key(case)), None)
            if known is not None:
                return _same(path, known, case)
            before = path.read_bytes() if path.exists() else b""
            between = b"" if before.endswith(b"\n") or not before else b"\n"
            whole = before + between + line.encode() + b"\n"
            with whole_file(path) as file:
                file.write(whole)
    except OSError as error:
        raise ProjectError(f"the suite's file {str(path)!r} cannot be written: {error}.", "mend the path") from error
    number = whole.count(b"\n")
    return f"line {number}"


def cases_from(path: Path, request_ids: Collection[str]) -> list[Inputs]:
    """Return the inputs of the cases that were taken from these requests; none where there is no such file.

    Raises:
        ProjectError: the file cannot be read.
    """
    found = [json.loads(line).get("inputs") for line in _lines(path) if _origin(line) in request_ids]
    return [inputs for inputs in found if isinstance(inputs, dict)]


def cases_of(path: Path, request_ids: Collection[str]) -> list[str]:
    """Return which of these requests the cases of a file were taken from, one for each case.

    Raises:
        ProjectError: the file cannot be read.
    """
    return [origin for line in _lines(path) if (origin := _origin(line)) is not None and origin in request_ids]


def unreadable(path: Path) -> str:
    """Return why a file cannot be read, "" where it can, or is not there."""
    try:
        _lines(path)
    except ProjectError as error:
        return str(error)
    return ""


def remove_cases(path: Path, request_ids: Collection[str]) -> int:
    """Take the cases that were taken from these requests out of a file, and return how many there were.

    Raises:
        ProjectError: the file cannot be read or written.
    """
    try:
        with _alone(path.parent):
            lines = _lines(path)
            kept = [line for line in lines if _origin(line) not in request_ids]
            if len(kept) < len(lines):
                with whole_file(path) as file:
                    file.write("".join(f"{line}\n" for line in kept).encode())
    except OSError as error:
        raise ProjectError(f"the suite's file {str(path)!r} cannot be written: {error}.", "mend the path") from error
    return len(lines) - len(kept)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise _cannot_read(path, error) from error
    return text.removesuffix("\n").split("\n")


def _cannot_read(path: Path, error: Exception) -> ProjectError:
    return ProjectError(
        f"the suite's file {str(path)!r} cannot be read: {error}.", "write UTF-8 text, readable by this user"
    )


def _origin(line: str) -> str | None:
    """Return the request that a line was taken from, None of one written by hand, or that is no case."""
    try:
        found = json.loads(line)["from"]["request_id"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _same(path: Path, known: Case, case: Case) -> str:
    if known.label == case.label:
        return known.id
    raise Conflict(
        f"{path.name}, {known.id} has these inputs with the label {known.label!r}, not {case.label!r}.",
        "keep the one that is right: edit the line",
    )


def _key(case: Case) -> str:
    return digest(to_lines(case.inputs))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: whoever else adds to a file in it waits."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
