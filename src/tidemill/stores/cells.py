"""One value of a table as the canonical form of a declared input (see `tidemill.schema`)."""

from __future__ import annotations

import base64
from typing import Any

from tidemill.schema import Input, Sensitive, keyed_hash


def canonical(value: object, kind: Input, name: str, key: bytes = b"") -> Any:
    """Return the canonical form of a value from a table, where arrays may also be raw bytes.

    Raises:
        InvalidInput: it does not fit the declared input.
    """
    if isinstance(value, bytes) and hasattr(kind, "shape"):
        value = base64.b64encode(value).decode()
    parsed = kind.parse(value, name)
    return keyed_hash(parsed, key) if isinstance(kind, Sensitive) else parsed
