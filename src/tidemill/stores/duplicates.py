"""Duplicate groups: which examples say the same, so that they share a split.

Examples with equal features are one group. So are near-duplicates: a new example joins the group of the nearest
**leader**, the first example of a group, that is alike in all its text, image and tensor features and equal in the
others (see `tidemill.stats.likeness`). It is compared with leaders only, so that groups do not grow by chains, and a
group takes near-duplicates up to 20 or 1 % of the project's examples, so that a fixed camera does not make one group of
everything. What is looked at for an example is bounded: at most 32 leaders for each of its bands.

An input that is newer than an example is missing there, and what has its default is the same. So an example with
defaults is looked for in several forms, six bands each: with and without each of up to three defaults (eight forms); of
more defaults, with all and with none of them (two), so that one which lacks some only is not found. A default is equal
or it is not: it has no fingerprint. Leaders that were stored before a text input got its default, with just that text,
have one of it. So they are found by their equals, and not by near-duplicates.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from sqlalchemy import Connection, delete, func, insert, select, update

from tidemill.schema import Array, Schema
from tidemill.stats.likeness import NUM_BANDS, Fingerprint, Likeness, likeness_of
from tidemill.stores.rows import next_number, parts
from tidemill.stores.tables import duplicate_bands, duplicate_leaders, examples

Inputs = Mapping[str, Any]
"""Canonical values by name."""
Pairs = Sequence[tuple[str, Any]]
"""Names of inputs, and their values."""

_LEADERS_A_BAND = 32
_LEAST_ROOM = 20
_ROOM_SHARE = 0.01
_MOST_SILENT = 3  # defaults in an example, of which any may be newer than an equal one


@dataclass(frozen=True)
class Sameness:
    """What makes two examples of a project duplicates: the inputs that count, and those where near is enough.

    `names` are the inputs that count, all where there is none of them; `near` says for some of them what alike means.
    `defaults` are the values of inputs that an older example may lack: one that lacks it equals one that has that.
    """

    names: Collection[str] = ()
    near: Mapping[str, Likeness] = field(default_factory=dict)
    defaults: Inputs = field(default_factory=dict)

    @classmethod
    def of(cls, schema: Schema, *, near_duplicates: bool = True) -> Self:
        """Return the sameness of a schema: its features, with or without near-duplicates."""
        found = {name: likeness_of(schema.inputs[name]) for name in schema.features} if near_duplicates else {}
        near = {name: likeness for name, likeness in found.items() if likeness is not None}
        return cls(schema.features, near, schema.defaults)

    def content(self, inputs: Inputs) -> str:
        """Return 32 hex digits that examples with equal inputs share."""
        return self.contents(inputs)[0]

    def contents(self, inputs: Inputs) -> list[str]:
        """Return the content of an example, then what equal ones have that are older than some of the defaults."""
        whole = self._pairs(inputs) or list(inputs.items())
        return [hashlib.blake2b(msgspec.msgpack.encode(f), digest_size=16).hexdigest() for f in self._forms(whole)]

    def fingerprints(self, rows: Sequence[Inputs]) -> list[Fingerprint | None]:
        """Return the fingerprint of each row over all near inputs; None of one that is like nothing but itself."""
        by_name = {name: self._of_input(name, rows) for name in self.near}
        return [self._joined(row, {n: p[at] for n, p in by_name.items()}) for at, row in enumerate(rows)]

    def distances(self, data: bytes, others: Sequence[bytes]) -> Array:
        """Return how far others are, float (N,): of the inputs the farthest; infinite where one is unlike."""
        mine = msgspec.msgpack.decode(data, type=dict[str, bytes])
        theirs = [msgspec.msgpack.decode(other, type=dict[str, bytes]) for other in others]
        farthest: Array = np.max(
            [self.near[n].distances(d, [other[n] for other in theirs]) for n, d in mine.items()], axis=0
        )
        return farthest

    def _of_input(self, name: str, rows: Sequence[Inputs]) -> list[Fingerprint | None]:
        likeness = self.near[name]
        values = [row.get(name) for row in rows]
        fit = [at for at, v in enumerate(values) if likeness.fits(v) and not self._is_default(name, v)]
        found = dict(zip(fit, likeness.fingerprints([rows[at][name] for at in fit]), strict=True))
        return [found.get(at) for at in range(len(rows))]

    def _joined(self, row: Inputs, prints: Mapping[str, Fingerprint | None]) -> Fingerprint | None:
        known = {name: found for name, found in prints.items() if found is not None}
        if not known:
            return None
        # In the bands, what must be equal: the other inputs, and the size of each fingerprint, which says the shape.
        whole = [(name, value) for name, value in self._pairs(row) if name not in known]
        sizes = [(name, len(found.data)) for name, found in known.items()]
        # First those that a leader is stored under; then, to find it, those of one that is older than the defaults.
        bands = [band for equal in self._forms(whole) for band in _bands(equal, sizes, known)]
        return Fingerprint(tuple(bands), msgspec.msgpack.encode({name: found.data for name, found in known.items()}))

    def _pairs(self, row: Inputs) -> list[tuple[str, Any]]:
        """Return what counts of an example, by name, with the defaults that it is older than."""
        older = {name: self.defaults[name] for name in self.names if name in self.defaults and name not in row}
        whole = dict(sorted({**older, **row}.items())) if older else row  # as examples are stored
        return [(name, value) for name, value in whole.items() if name in self.names]

    def _forms(self, pairs: Pairs) -> list[Pairs]:
        """Return the pairs, then without some of those that say what a default does, and without any of them.

        The first is what is stored, whatever defaults are later; an example from before an input was added lacks it.
        """
        silent = [name for name, value in pairs if self._is_default(name, value)]
        sizes = range(len(silent), -1, -1) if len(silent) <= _MOST_SILENT else (len(silent), 0)
        kept = [set(some) for size in sizes for some in combinations(silent, size)]
        return [[(name, value) for name, value in pairs if name in some or name not in silent] for some in kept]

    def _is_default(self, name: str, value: Any) -> bool:
        return name in self.defaults and value == self.defaults[name]


def _bands(equal: Pairs, sizes: Sequence[tuple[str, int]], known: Mapping[str, Fingerprint]) -> Iterator[bytes]:
    begun = hashlib.blake2b(msgspec.msgpack.encode([equal, sizes]), digest_size=8)
    for number in range(NUM_BANDS):
        band = begun.copy()
        band.update(b"".join([number.to_bytes(), *(found.bands[number] for found in known.values())]))
        yield band.digest()


class Group(NamedTuple):
    """The duplicate group of an example, and the hash of its own content."""

    content: str
    duplicates: str


class Groups:
    """Gives the new examples of a project their groups; the same, however the examples are parted into batches.

    Args:
        conn: a write transaction, in which the project is locked.
        project: whose they are.
        sameness: what makes two of them duplicates.
    """

    def __init__(self, conn: Connection, project: str, sameness: Sameness) -> None:
        self._conn, self._project, self._sameness = conn, project, sameness
        self._leaders = _Leaders(conn, project)
        self._added: Counter[str] = Counter()  # to a group, since this began
        self._stored: dict[str | None, int] = {}  # examples of a group before that, of all groups under None

    def assign(self, inputs: Mapping[str, Inputs], *, keep: bool = True) -> dict[str, Group]:
        """Return the groups of new examples by id, in the order given; their leaders are stored, if they are to be."""
        forms = {id_: self._sameness.contents(row) for id_, row in inputs.items()}
        contents = {id_: form[0] for id_, form in forms.items()}
        known = self._known(one for form in forms.values() for one in form)
        group_of = {form[0]: known[one] for form in forms.values() for one in reversed(form) if one in known}
        fresh = {content: inputs[id_] for id_, content in contents.items() if content not in group_of}
        prints = dict(zip(fresh, self._sameness.fingerprints(list(fresh.values())), strict=True))
        self._leaders.read(prints.values())
        for content in contents.values():
            if content not in group_of:
                group_of[content] = self._join(content, prints[content])
            self._added[group_of[content]] += 1
        if keep:
            self._leaders.write()
        return {id_: Group(content, group_of[content]) for id_, content in contents.items()}

    def _known(self, contents: Iterable[str]) -> dict[str, str]:
        query = select(examples.c.content, examples.c.duplicates).distinct()
        query = query.where(examples.c.project == self._project)
        rows = (self._conn.execute(query.where(examples.c.content.in_(some))) for some in parts(sorted(set(contents))))
        return {row.content: row.duplicates for part in rows for row in part}

    def _join(self, content: str, found: Fingerprint | None) -> str:
        """Return the group of the nearest leader that is alike and whose group has room, or begin one."""
        if found is None:
            return content
        near = self._leaders.near(found)
        if near:
            distances = self._sameness.distances(found.data, [leader.data for leader in near])
            for at in np.argsort(distances, kind="stable"):  # of two as near, the older one
                if np.isfinite(distances[at]) and self._has_room(near[at].duplicates):
                    return str(near[at].duplicates)
        self._leaders.add(content, found)
        return content

    def _has_room(self, group: str) -> bool:
        size = self._num_stored(group) + self._added[group]
        if size < _LEAST_ROOM:
            return True
        return size < _ROOM_SHARE * (self._num_stored(None) + self._added.total())

    def _num_stored(self, group: str | None) -> int:
        if group not in self._stored:
            query = select(func.count()).select_from(examples).where(examples.c.project == self._project)
            query = query if group is None else query.where(examples.c.duplicates == group)
            self._stored[group] = int(self._conn.execute(query).scalar_one())
        return self._stored[group]


class _Leader(NamedTuple):
    number: int
    duplicates: str
    data: bytes


class _Leaders:
    """The leaders of a project's groups that share a band with what is looked for, and those that were added."""

    def __init__(self, conn: Connection, project: str) -> None:
        self._conn, self._project = conn, project
        self._known: dict[int, _Leader] = {}
        self._in_band: dict[int, list[int]] = defaultdict(list)
        self._new: list[_Leader] = []
        self._new_bands: list[tuple[int, int]] = []

    def read(self, prints: Iterable[Fingerprint | None]) -> None:
        """Read all leaders that share a band with one of these."""
        bands, leaders = duplicate_bands.c, duplicate_leaders.c
        keys = sorted({_key(band) for found in prints if found is not None for band in found.bands})
        query = select(bands.band, bands.leader).where(bands.project == self._project).order_by(bands.leader)
        for some in parts(keys):
            for band, number in self._conn.execute(query.where(bands.band.in_(some))):
                self._in_band[band].append(number)
        known = select(leaders.leader, leaders.duplicates, leaders.fingerprint).where(leaders.project == self._project)
        for some in parts(sorted({number for numbers in self._in_band.values() for number in numbers})):
            rows = self._conn.execute(known.where(leaders.leader.in_(some)))
            self._known.update((number, _Leader(number, group, data)) for number, group, data in rows)
        self._next = next_number(self._conn, leaders.leader, self._project)

    def near(self, found: Fingerprint) -> list[_Leader]:
        """Return the leaders that share a band with this one, the oldest first."""
        numbers = {number for band in found.bands for number in self._in_band.get(_key(band), ())}
        return [self._known[number] for number in sorted(numbers)]

    def add(self, group: str, found: Fingerprint) -> None:
        """Make a new group's first example a leader. A crowded band takes no more, so that it stays quick to search."""
        leader = _Leader(self._next + len(self._new), group, found.data)
        self._known[leader.number] = leader
        self._new.append(leader)
        for key in map(_key, found.bands[:NUM_BANDS]):
            if len(self._in_band[key]) < _LEADERS_A_BAND:
                self._in_band[key].append(leader.number)
                self._new_bands.append((key, leader.number))

    def write(self) -> None:
        """Store the leaders that were added."""
        leaders = [
            {"project": self._project, "leader": one.number, "duplicates": one.duplicates, "fingerprint": one.data}
            for one in self._new
        ]
        bands = [{"project": self._project, "band": band, "leader": number} for band, number in sorted(self._new_bands)]
        if leaders:
            self._conn.execute(insert(duplicate_leaders), leaders)
        if bands:
            self._conn.execute(insert(duplicate_bands), bands)
        self._new, self._new_bands = [], []


def lead_anew(
    conn: Connection, project: str, groups: Collection[str], sameness: Sameness, inputs_of: Callable[[str], Inputs]
) -> None:
    """Give groups whose first example is gone another leader, the oldest that is left, and its name.

    Args:
        conn: a write transaction, in which the project is locked.
        project: whose groups they are.
        groups: those that an example was deleted from.
        sameness: what makes two examples duplicates.
        inputs_of: gives the inputs of an example.
    """
    for group in sorted(groups):
        of_group = (examples.c.project == project, examples.c.duplicates == group)
        oldest = select(examples.c.id, examples.c.content).where(*of_group)
        left = conn.execute(oldest.order_by(examples.c.received_at, examples.c.id)).all()
        if any(row.content == group for row in left):
            continue  # an equal of the first one is there still
        was_known = _drop_leader(conn, project, group)
        if left:
            conn.execute(update(examples).where(*of_group).values(duplicates=left[0].content))
            if was_known:
                _add_leader(conn, project, left[0].content, sameness.fingerprints([inputs_of(left[0].id)])[0])


def _drop_leader(conn: Connection, project: str, group: str) -> bool:
    mine = (duplicate_leaders.c.project == project, duplicate_leaders.c.duplicates == group)
    numbers = conn.execute(select(duplicate_leaders.c.leader).where(*mine)).scalars().all()
    bands = duplicate_bands.c
    conn.execute(delete(duplicate_bands).where(bands.project == project, bands.leader.in_(numbers)))
    conn.execute(delete(duplicate_leaders).where(*mine))
    return bool(numbers)


def _add_leader(conn: Connection, project: str, group: str, found: Fingerprint | None) -> None:
    if found is not None:
        leaders = _Leaders(conn, project)
        leaders.read([found])
        leaders.add(group, found)
        leaders.write()


def _key(band: bytes) -> int:
    return int.from_bytes(band, "big", signed=True)
