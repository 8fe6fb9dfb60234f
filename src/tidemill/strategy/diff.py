"""What changed from one strategy to another, in lines that people read. Works on JSON, so old versions compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from datetime import timedelta

from tidemill.records import Json
from tidemill.strategy.member import Member, plain, shown_duration

_COMPOSED_OF = ("members", "parts")  # parameters that hold the members of `a + b`, `a | b`, `a & b`, `a >> b`
_DURATIONS = ("curate_every", "train_timeout")  # of the strategy itself; a member names its own

_SIGNS = {"AnyOf": " | ", "AllOf": " & "}
_SIGN_OF_STAGE = {"online": " >> ", "label": " | ", "curate": " + ", "dataset": " + "}


def diff_json(old: Json, new: Json) -> list[str]:
    """Return one line per changed parameter, added or removed member: `trigger.Degraded.drop: 0.03 -> 0.05`."""
    keys = dict.fromkeys([*old, *new])
    return [line for key in keys for line in _changes(key, old.get(key), new.get(key), duration=key in _DURATIONS)]


def stages_text(body: Json) -> dict[str, str]:
    """Return what each stage of a strategy's JSON says, as people write it: `Degraded('accuracy', ...)`."""
    return {name: _written(value, duration=name in _DURATIONS) for name, value in body.items()}


def _written(value: Json, *, duration: bool = False) -> str:
    if _is_list(value):
        return "; ".join(map(_written, value))
    if _is_member(value) and value["member"] == "AtMost":
        return f"({_written(value['params']['trigger'])}).at_most({_shown(value['params']['per'], duration=True)!r})"
    parts = _parts(value) if _is_member(value) else []
    sign = _SIGNS.get(value["member"], _SIGN_OF_STAGE.get(value["stage"], ", ")) if parts else ""
    return sign.join(f"({_written(p)})" if _parts(p) else _written(p) for p in parts) or _shown(
        value, duration=duration
    )


def _changes(path: str, old: Json, new: Json, *, duration: bool = False) -> Iterator[str]:
    if old == new:
        return
    if _is_member(old) and _is_member(new) and old["member"] == new["member"] and not _parts(old):
        yield from _changed_params(f"{path}.{old['member']}", old, new)
    elif (lists := _as_lists(old, new)) is not None:
        yield from _changed_members(path, *lists)
    elif _is_table(old) and _is_table(new):
        yield from _changed_table(path, old, new)
    else:
        yield f"{path}: {_shown(old, duration=duration)} -> {_shown(new, duration=duration)}"


def _changed_params(path: str, old: Json, new: Json) -> Iterator[str]:
    durations = _known(new).durations
    for name in dict.fromkeys([*old["params"], *new["params"]]):
        there = old["params"].get(name), new["params"].get(name)
        yield from _changes(f"{path}.{name}", *there, duration=name in durations)


def _changed_table(path: str, old: Json, new: Json) -> Iterator[str]:
    """Compare schemas of data, column by column."""
    before, after = old["columns"], new["columns"]
    yield from (f"{path}: removed column {name}" for name in before if name not in after)
    yield from (f"{path}: added column {name}" for name in after if name not in before)
    for name in (name for name in after if name in before):
        for key in dict.fromkeys([*before[name], *after[name]]):
            yield from _changes(f"{path}.{name}.{key}", before[name].get(key), after[name].get(key))
    for key in (key for key in dict.fromkeys([*old, *new]) if key != "columns"):
        yield from _changes(f"{path}.{key}", old.get(key), new.get(key))


def _changed_members(path: str, old: Sequence[Json], new: Sequence[Json]) -> Iterator[str]:
    """Compare lists of members; the first of a name is compared with the first of that name, and so on."""
    before, after = _numbered(old), _numbered(new)
    for key, member in before.items():
        if key in after:
            yield from _changes(path, member, after[key])
        else:
            yield f"{path}: removed {_shown(member)}"
    yield from (f"{path}: added {_shown(member)}" for key, member in after.items() if key not in before)
    kept = [key for key in after if key in before]
    if kept != [key for key in before if key in after]:
        yield f"{path}: the order is now {', '.join(name for name, _ in after)}"


def _numbered(members: Sequence[Json]) -> dict[tuple[str, int], Json]:
    seen: Counter[str] = Counter()
    out = {}
    for member in members:
        seen[member["member"]] += 1
        out[member["member"], seen[member["member"]]] = member
    return out


def _as_lists(old: Json, new: Json) -> tuple[list[Json], list[Json]] | None:
    """Return both as lists of members where one of them is such a list, or is composed of members."""
    if _is_list(old) and _is_list(new):
        return old, new
    if not (_is_member(old) and _is_member(new)):
        return None
    parts = _parts(old), _parts(new)
    if not any(parts) or (all(parts) and old["member"] != new["member"]):
        return None  # neither is composed, or by different operators
    return parts[0] or [old], parts[1] or [new]


def _is_member(value: Json) -> bool:
    return isinstance(value, dict) and "member" in value


def _is_table(value: Json) -> bool:
    return isinstance(value, dict) and isinstance(value.get("columns"), dict)


def _is_list(value: Json) -> bool:
    return isinstance(value, list) and all(_is_member(v) for v in value)


def _parts(member: Json) -> list[Json]:
    """Return the members that it only puts together."""
    names = list(member["params"])
    return list(member["params"][names[0]]) if len(names) == 1 and names[0] in _COMPOSED_OF else []


def _known(member: Json) -> type[Member]:
    """Return the class of a member, `Member` itself when this program has none."""
    waiting: list[type[Member]] = [Member]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == member["member"] and getattr(kind, "stage", None) == member["stage"]:
            return kind
        waiting += kind.__subclasses__()
    return Member


def _shown(value: Json, *, duration: bool = False) -> str:
    if duration and isinstance(value, int | float):
        return shown_duration(timedelta(seconds=value))
    if isinstance(value, list):
        return f"({', '.join(_shown(v) for v in value)})"
    if not isinstance(value, dict):
        return repr(value)
    if not _is_member(value):
        return str(value.get("callable", value))
    kind = _known(value)
    given = {name: v for name, v in value["params"].items() if not _is_default(kind, name, v)}
    shown = (f"{name}={_shown(v, duration=name in kind.durations)}" for name, v in given.items())
    return f"{value['member']}({', '.join(shown)})"


def _is_default(kind: type[Member], name: str, value: Json) -> bool:
    specs = {spec.name: spec.default for spec in fields(kind)} if kind is not Member else {}  # type: ignore[arg-type]
    default = specs.get(name, MISSING)
    return default is not MISSING and plain(default, name) == value
