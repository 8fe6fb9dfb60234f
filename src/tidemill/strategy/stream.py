"""One stream of losses that a trigger watches: its first window, then the evidence against it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stats.rise import Reference, Rise


@dataclass(frozen=True)
class Stream:
    """The losses of everyone, or of one cohort. `test` is None until the reference is full."""

    reference: Reference = field(default_factory=Reference)
    test: Rise | None = None

    def add(self, losses: Array, *, size: int, drop: float, alpha: float, binary: bool) -> Stream:
        """Fill the reference up to `size`, then test the rest against it.

        Args:
            losses: (N,) in order.
            size: outcomes that make the reference.
            drop: how much above the reference's mean is too much.
            alpha: the chance that the bar lies below what the reference was drawn from; see `Reference.rise`.
            binary: whether losses are 0 or 1.
        """
        room = max(size - self.reference.num, 0)
        reference, rest, test = self.reference.add(losses[:room]), losses[room:], self.test
        if test is None and reference.num >= size:
            test = reference.rise(drop=drop, alpha=alpha, binary=binary)
        return Stream(reference, None if test is None else test.add(rest))

    def without_evidence(self) -> Stream:
        """Return the stream with its reference and bar, and the test begun anew."""
        return replace(self, test=None if self.test is None else self.test.again())

    def to_json(self) -> Json:
        """Return the stream as plain JSON."""
        return {
            "reference": [self.reference.num, self.reference.total, self.reference.squares],
            "test": None if self.test is None else self.test.to_json(),
        }

    @classmethod
    def from_json(cls, data: Json) -> Stream:
        """Read what `to_json` wrote."""
        test = data["test"]
        return cls(Reference(*data["reference"]), None if test is None else Rise.from_json(test))
