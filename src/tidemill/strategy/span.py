"""A field that is given as a duration in text, such as `"30d"`, and read as a `timedelta`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tidemill.clock import duration


class Span:
    """Descriptor of a dataclass field: `horizon: Span = Span("2d")` takes a `timedelta` or text and is a `timedelta`.

    Type checkers see both sides, so neither the user's strings nor the loop's arithmetic needs a cast.
    """

    def __init__(self, default: str) -> None:
        self.default = duration(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> timedelta:
        if instance is None:
            return self.default  # the dataclass asks for its default
        value: timedelta = instance.__dict__[self.name]
        return value

    def __set__(self, instance: Any, value: timedelta | str) -> None:
        instance.__dict__[self.name] = duration(value, name=f"{type(instance).__name__}.{self.name}")
