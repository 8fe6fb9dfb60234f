"""What tells one value or one function from another, the same in every process: short hashes of content and source."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

from tidemill.errors import ProjectError
from tidemill.records import Json


def digest(data: Json) -> str:
    """Return 16 hex digits that stand for a JSON value."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def callable_json(function: Callable[..., Any], where: str) -> Json:
    """Return the qualified name and source hash of a function or class.

    Raises:
        ProjectError: it is a lambda, whose identity cannot be told from its source.
    """
    name = getattr(function, "__qualname__", "")
    if not name or "<lambda>" in name:
        raise ProjectError(f"{where} is a lambda: two of them look the same.", "name it with def, and pass the name")
    return {"callable": f"{function.__module__}:{name}", "source": source_hash(function)}


def source_hash(function: Callable[..., Any]) -> str:
    """Return 16 hex digits of a function's source; of a lambda's, the statement that it stands in."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""  # built in, or defined at a prompt: the name has to do
    return hashlib.sha256(source.encode()).hexdigest()[:16]
