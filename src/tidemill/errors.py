"""Everything Tidemill raises on purpose.

```
TidemillError                 message = what is wrong, with the value; hint = the next move
├── ProjectError              the project file or a stage is wrong (found by `tidemill check`)
├── MissingExtra              an optional dependency is not installed
├── InvalidRequest            a request is refused; carries the HTTP status
│   ├── Malformed             400  not JSON, or not the expected envelope
│   ├── Unauthorized          401  no token, or none that is valid here
│   ├── Forbidden             403  a token that is not for this
│   ├── NotFound              404  unknown model, unknown request id
│   ├── TooLarge              413  body over the limit
│   ├── InvalidInput          422  unknown field, wrong type or shape, NaN, out of range
│   └── Unavailable           503  no version can answer, or the log cannot be written
├── StoreError                what is stored cannot be read or written as asked
│   ├── Conflict              somebody else changed it first (compare-and-set lost)
│   ├── Fenced                this process lost its lease; another one works now
│   ├── Corrupt               bytes do not match their hash or checksum
│   └── NewerStore            written by a newer program
├── ModelError                an artefact does not load, or does not reproduce its example
│   ├── ModelHung             a Python model did not answer in time, and its worker was killed
│   └── NotExportable         the trained object has no ONNX form
├── TrainingError             a trainer raised, hung, was killed or returned NaN
└── BacktestError             a step failed while a strategy was tried on a recorded stream
```
"""

from __future__ import annotations

import copyreg
from typing import Any


def sentence(text: str) -> str:
    """Return a text with a full stop, so that another sentence may follow."""
    return text if text.endswith((".", "!", "?")) or not text else f"{text}."


class TidemillError(Exception):
    """Base of all errors raised on purpose: what is wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{sentence(self.message)} Next: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class again: each has a signature of its own, and what it knows is in its attributes.
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]


def told(error: BaseException) -> str:
    """Return an error as one sentence for people: one that nobody foresaw with the name of its type."""
    return str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"


class ProjectError(TidemillError):
    """The project file, or a stage in it, is wrong."""


class MissingExtra(TidemillError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}.", f"pip install 'tidemill[{extra}]'")
        self.what, self.extra = what, extra


class InvalidRequest(TidemillError):
    """A request is refused; `status` is the HTTP status that says so."""

    status = 400
    title = "Bad request"


class Malformed(InvalidRequest):
    """The body is not JSON or not the expected envelope."""

    title = "Malformed request"


class Unauthorized(InvalidRequest):
    """The request has no token, or one that is unknown, expired or revoked."""

    status = 401
    title = "Unauthorized"


class Forbidden(InvalidRequest):
    """The request's token is valid, but not for this project or this call."""

    status = 403
    title = "Forbidden"


class NotFound(InvalidRequest):
    """The model or the request id is unknown here."""

    status = 404
    title = "Not found"


class TooLarge(InvalidRequest):
    """The body is larger than this gateway accepts."""

    status = 413
    title = "Body too large"


class InvalidInput(InvalidRequest):
    """A field is unknown, missing, of the wrong type or shape, NaN or out of range."""

    status = 422
    title = "Invalid input"

    def __init__(self, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message, hint)
        self.field = field


class Unavailable(InvalidRequest):
    """No version can answer, or the log cannot be written."""

    status = 503
    title = "Unavailable"


class StoreError(TidemillError):
    """What is stored cannot be read or written as asked."""


class Conflict(StoreError):
    """A compare-and-set lost: somebody else changed the row first."""


class Fenced(StoreError):
    """This process lost its lease, and another one may be at work."""


class Corrupt(StoreError):
    """Stored bytes do not match their hash or checksum."""


class NewerStore(StoreError):
    """The store was written by a newer program than this one."""


class ModelError(TidemillError):
    """An artefact does not load, or does not reproduce the example stored with it."""


class ModelHung(ModelError):
    """A Python model did not answer in time; its worker process was killed."""


class NotExportable(ModelError):
    """The trained object has no ONNX form; it is served as a Python model instead."""


class TrainingError(TidemillError):
    """A trainer raised, hung, was killed or returned something unusable."""


class BacktestError(TidemillError):
    """A step failed while a strategy was tried on a recorded stream."""
