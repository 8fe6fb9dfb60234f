"""The base of every stage member: its constructor parameters are its configuration, and it composes with operators.

A member is a frozen dataclass. Lists become tuples and duration strings become `timedelta`s when it is made, so that
two members with equal parameters are equal, hash equally and have the same digest. A callable parameter is known by its
qualified name and the hash of its source; lambdas are refused, because two of them cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar, Self

from tidemill.clock import duration
from tidemill.errors import ProjectError
from tidemill.fingerprint import callable_json, digest
from tidemill.records import Json


class Member:
    """Base of the members of all families.

    `stage` names the family; `durations` names the fields that take a duration.
    """

    stage: ClassVar[str]
    durations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for spec in fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            if spec.name in self.durations and value is not None:
                value = duration(value, name=f"{type(self).__name__}.{spec.name}")
            object.__setattr__(self, spec.name, _frozen(value))
        self.check()

    def check(self) -> None:
        """Refuse parameters that make no sense, with a `ProjectError`. Members override it."""

    def params(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {spec.name: getattr(self, spec.name) for spec in fields(self)}  # type: ignore[arg-type]

    def to_json(self) -> Json:
        """Return the member as canonical JSON: family, member and parameters; of a user's own class, its code too."""
        where = type(self).__name__
        body = {
            "stage": self.stage,
            "member": where,
            "params": {name: plain(value, f"{where}.{name}") for name, value in self.params().items()},
        }
        if not type(self).__module__.startswith("tidemill."):
            body["code"] = callable_json(type(self), where)
        return body

    def digest(self) -> str:
        """Return the hash of the canonical JSON: 16 hex digits."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest(self.to_json())  # asked for at every turn

    def __str__(self) -> str:
        shown: list[str] = []
        for spec in fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            if value != spec.default:
                shown.append(_text(value) if not shown and spec is fields(self)[0] else f"{spec.name}={_text(value)}")  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"

    def require(self, ok: bool, problem: str, hint: str) -> None:
        """Raise a `ProjectError` that names this member unless `ok`."""
        if not ok:
            raise ProjectError(f"{self.stage}.{type(self).__name__}: {problem}.", hint)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Make the member from the `params` of its JSON (no callables, no members inside)."""
        given = {k: timedelta(seconds=v) if k in cls.durations and v is not None else v for k, v in params.items()}
        return cls(**given)


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(value))
    if isinstance(value, Mapping):
        return tuple(sorted((k, _frozen(v)) for k, v in value.items()))
    return value


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{shown_duration(value)!r}"
    if isinstance(value, Member):
        return str(value)
    if isinstance(value, str):
        return repr(str(value))  # an enum as its text
    if isinstance(value, tuple):
        return "(" + ", ".join(_text(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    return value.__qualname__ if callable(value) else repr(value)


def shown_duration(value: timedelta) -> str:
    """Return a duration as people write it: `30d`, `2h`, `1.5s`."""
    seconds = value.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"


def plain(value: Any, where: str) -> Json:
    """Return a parameter as canonical JSON; durations are seconds.

    Raises:
        ProjectError: it is a lambda, or something that has no canonical form.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1 and 1.0 are equal, so their digests must be
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v, where) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v, where) for v in value]
    if hasattr(value, "to_json"):
        return value.to_json()
    if callable(value):
        return callable_json(value, where)
    raise ProjectError(
        f"{where} is {value!r}, which has no canonical form.",
        "pass numbers, strings, functions, classes or stage members",
    )
