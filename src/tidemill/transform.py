"""One transform: the protocol, and what those of one input or of several have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from tidemill.errors import ProjectError
from tidemill.inputs import Array, Columns
from tidemill.records import Json

Params = Mapping[str, Array]

DENSE = "x"
"""Name of the feature that all dense blocks are joined to."""


class Transform(Protocol):
    """One step from inputs to features."""

    @property
    def takes(self) -> tuple[type[Any], ...]:
        """The input types it can read."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs it reads."""
        ...

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn from training rows; return arrays by name, of plain numeric types."""
        ...

    def apply(self, columns: Columns, params: Params) -> dict[str, Array]:
        """Return features by name, each with N rows; those named `x` are joined."""
        ...

    def to_json(self) -> Json:
        """Return type and parameters."""
        ...


class Declared:
    """Shared by the transforms: JSON from the dataclass fields; and learning nothing, which is what most learn."""

    def fit(self, columns: Columns) -> dict[str, Array]:
        """Learn nothing."""
        return {}

    def to_json(self) -> Json:
        """Return type and parameters."""
        params = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}}

    def require(self, ok: bool, problem: str, hint: str) -> None:
        """Refuse a parameter, unless `ok`."""
        if not ok:
            raise ProjectError(f"transforms.{type(self).__name__}: {problem}.", hint)


@dataclass(frozen=True, init=False)
class Several(Declared):
    """Shared by the transforms that read several inputs alike."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)
        self.require(bool(names), "no input is named", f"name one, such as {type(self).__name__}('age')")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs it reads."""
        return self.names


class Single(Declared):
    """Shared by the transforms that read one input."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input it reads."""
        return (self.name,)
