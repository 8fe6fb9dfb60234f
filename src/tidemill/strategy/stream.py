"""One stream of losses that a trigger watches: what it is held to, and the evidence that it has become worse."""

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

    def held_to(self, reference: Reference) -> Stream:
        """Return the stream, begun anew if it was held to another reference."""
        return self if reference == self.reference else Stream(reference)

    def add(self, losses: Array, *, size: int, drop: float, alpha: float, binary: bool) -> Stream:
        """Test losses against the reference, if it is full.

        Args:
            losses: (N,) in order, none of them in the reference.
            size: outcomes that make the reference.
            drop: how much above the reference's mean is too much.
            alpha: the chance that the bar lies below what the reference was drawn from; see `Reference.rise`.
            binary: whether losses are 0 or 1.
        """
        test = self.test
        if test is None and self.reference.num >= size:
            test = self.reference.rise(drop=drop, alpha=alpha, binary=binary)
        return Stream(self.reference, None if test is None else test.add(losses))

    def has_risen(self, log_wanted: float) -> bool:
        """Tell whether there is as much evidence as that."""
        return self.test is not None and self.test.log_evidence() >= log_wanted

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
