"""The words of the page: who asks for what, what a view shows, and what a button does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlencode

from tidemill.app import App
from tidemill.clock import duration
from tidemill.dashboard.gateway import LOCAL, Gateway
from tidemill.dashboard.measured import Measured, Reading
from tidemill.dashboard.table import Table
from tidemill.errors import Forbidden, InvalidInput, ProjectError, TidemillError, Unavailable
from tidemill.stores.searcher import Searcher

LIMIT = 50
CSV_LIMIT = 100_000
GREATEST = 1_000_000_000  # whole number that is read: it fits every column
T = TypeVar("T")
PERIODS = ("1h", "6h", "1d", "7d", "30d")


class Role(IntEnum):
    """What somebody may do: each includes those before it."""

    VIEWER = 1
    LABELLER = 2
    OPERATOR = 3

    def __str__(self) -> str:
        """Return its word."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Who:
    """Who asks: the name that actions are written down under. `token` is None where the page is open."""

    name: str
    role: Role
    token: int | None = None

    def may(self, role: Role) -> bool:
        """Tell whether they have a role, or one that includes it."""
        return self.role >= role

    @property
    def is_operator(self) -> bool:
        """Whether they may do everything."""
        return self.may(Role.OPERATOR)

    @property
    def is_labeller(self) -> bool:
        """Whether they may label."""
        return self.may(Role.LABELLER)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request for a view: what it reads from, who asks, when, and the words in the address.

    `limit` is how many rows a table gives: a page of them, or all that a CSV file takes, where `is_file`.
    """

    app: App
    who: Who
    now: datetime
    path: str
    query: Mapping[str, str]
    place: Mapping[str, Any]
    measured: Measured
    searcher: Searcher
    gateway: Gateway = LOCAL
    limit: int = LIMIT
    is_file: bool = False

    @property
    def query_string(self) -> str:
        """The parameters of the address as they stand in it."""
        return urlencode(dict(self.query))

    @property
    def file_query(self) -> str:
        """The same with what stands in the path, such as a version: a table's file is asked for by both."""
        return urlencode({**self.place, **self.query})

    def word(self, name: str, default: str = "") -> str:
        """Return a parameter of the address, without blanks around it."""
        return self.query.get(name, default).strip()

    def number(self, name: str, default: int, *, least: int = 0, most: int = GREATEST) -> int:
        """Return a whole number of the address.

        Raises:
            InvalidInput: it is none, or out of range.
        """
        text = self.word(name)
        try:
            value = int(text) if text else default
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise InvalidInput(f"{name} is {text[:60]!r}.", f"give a whole number from {least} to {most}", name)
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str = "") -> str:
        """Return one of several words of the address; the default, or the first, where it names none of them."""
        text = self.word(name)
        return text if text in choices else default or choices[0]

    def period(self, default: str = "1d") -> timedelta:
        """Return how far back to look, from `?period=`.

        Raises:
            ProjectError: it is no duration.
        """
        return duration(self.word("period") or default, name="period")

    def link(self, path: str = "", **changes: object) -> str:
        """Return this address (or another path) with some parameters changed; None and "" take one away."""
        kept = {} if path else dict(self.query)
        kept |= {name: "" if value is None else str(value) for name, value in changes.items()}
        query = urlencode({name: value for name, value in kept.items() if value})
        return f"{path or self.path}?{query}" if query else path or self.path


@dataclass(frozen=True, kw_only=True)
class Posted(Asked):
    """One press of a button: the fields sent with it, and why."""

    form: Mapping[str, list[str]]
    reason: str = ""

    def field(self, name: str) -> str:
        """Return a field.

        Raises:
            InvalidInput: it was not sent.
        """
        values = self.form.get(name)
        if not values:
            raise InvalidInput(f"the field {name!r} is missing.", "load the page again", name)
        return values[-1]

    def all(self, name: str) -> list[str]:
        """Return every value of a field, such as the rows ticked."""
        return self.form.get(name, [])

    def whole(self, name: str) -> int:
        """Return a field that is a whole number.

        Raises:
            InvalidInput: it was not sent, is none, or is too large.
        """
        text = self.field(name)
        try:
            value = int(text)
        except ValueError:
            value = GREATEST + 1
        if abs(value) > GREATEST:
            raise InvalidInput(f"{name} is {text[:60]!r}, which is no such number.", "load the page again", name)
        return value


@dataclass(frozen=True, kw_only=True)
class Page:
    """What to show: a template with its data, under a title."""

    template: str
    title: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class File:
    """Bytes to hand out: shown in the page where `name` is empty, else saved under it."""

    body: bytes
    media: str
    name: str = ""


Shown: TypeAlias = Page | File


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A part of a page with an address of its own.

    With `topics` it is fetched again when one of them changes (see `tidemill.dashboard.live`), and is kept for
    everybody who has the same role: it may depend on the address, the role and the stores, on nothing else.
    """

    show: Callable[[Asked], Shown]
    topics: tuple[str, ...] = ()
    role: Role = Role.VIEWER


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of an action, in words. The page is drawn anew, or another is gone to, unless `stay`.

    With `shown`, that is the answer instead of the words, for the form to put where it says. The audit log keeps what
    is `noted` instead of what is said, where that quotes somebody's inputs.
    """

    said: str
    goto: str = ""
    stay: bool = False
    shown: Page | None = None
    noted: str = ""


@dataclass(frozen=True, kw_only=True)
class Action:
    """A verb: what it does, who may, and whether it asks for a reason.

    `thing` says what it was done to, for the audit log. A verb that writes its own audit row has `audited` false.
    """

    do: Callable[[Posted], Done]
    verb: str
    thing: Callable[[Posted], str] = lambda _: ""
    role: Role = Role.OPERATOR
    reason: bool = True
    audited: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """One entry of the page: at `path`, under `name` in the group of the rail.

    `pages` are further pages below the path, such as `/{version:int}`; fragments and actions are at `PATH/-/NAME`,
    tables at `PATH/NAME.csv`. A table that is too long to hold as a file is among the `files` too: they yield it in
    pieces of the same columns. `searches` are words of the address by which rows are held against a condition one by
    one: such requests wait for one another. `badge` names the count that stands beside its name in the rail: alerts or
    queue.
    """

    path: str
    name: str
    group: str
    icon: str
    show: Callable[[Asked], Shown]
    pages: Mapping[str, Callable[[Asked], Shown]] = field(default_factory=dict)
    fragments: Mapping[str, Fragment] = field(default_factory=dict)
    tables: Mapping[str, Callable[[Asked], Table]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Asked], Iterator[Table]]] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)
    searches: frozenset[str] = frozenset()
    role: Role = Role.VIEWER
    badge: str = ""
    hidden: bool = False


class Refused(Forbidden):
    """Somebody may not do this, or not now; the page says why."""


class BeingMeasured(Unavailable):
    """What is asked for is not known yet; it will be in `retry_after_s`."""

    retry_after_s = 2

    def __init__(self) -> None:
        super().__init__("this is being measured.", f"ask again in {self.retry_after_s} s")


def known(reading: Reading[T] | None) -> T:
    """Return what was measured last.

    Raises:
        BeingMeasured: it is measured for the first time.
        TidemillError: it could not be measured; this is what the measure raised.
    """
    if reading is None:
        raise BeingMeasured
    if reading.error is not None:
        raise reading.error.with_traceback(None)
    if reading.value is None:
        raise ProjectError(reading.problem)
    return reading.value


def check_role(who: Who, role: Role) -> None:
    """Let them pass who have a role.

    Raises:
        Refused: they have not.
    """
    if not who.may(role):
        raise Refused(
            f"{who.name} is {who.role} here, and this is for {role}s.", f"use a token with the scope {_SCOPE[role]}"
        )


_SCOPE = {Role.VIEWER: "view", Role.LABELLER: "label", Role.OPERATOR: "operate"}


def problem_of(error: Exception) -> tuple[int, str, str]:
    """Return the status, the message and the next move of an error."""
    if isinstance(error, TidemillError):
        usual = InvalidInput.status if isinstance(error, ProjectError) else 409  # a word of the address, or of a field
        return getattr(error, "status", usual), error.message, error.hint
    return 500, "the page failed on this.", "the log of `tidemill page` says why"
