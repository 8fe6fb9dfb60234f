"""The test of the data that a candidate learnt from: a pandera schema has to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidemill.fingerprint import digest
from tidemill.records import Json, Outcome, Verdict
from tidemill.strategy.data_schema import is_data_schema, schema_json, schema_text
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.gate import Offline, OfflineNeeds


@dataclass(frozen=True, eq=False, repr=False)
class DataChecks(Offline):
    """The training rows of the candidate's dataset meet a pandera schema: `pa.DataFrameSchema` or `pa.DataFrameModel`.

    The frame has a column per input, `label` and `weight`; images and tensors are bytes. A `strict` schema that names
    no weight is not shown it. The reason tells columns, rows and counts. Two schemas are the same test when columns,
    checks and their numbers are; functions and lambdas are known by their source. Needs the extra `checks`;
    `tidemill check DATA --suggest` writes a first schema.
    """

    schema: Any

    def check(self) -> None:
        """Refuse what is no schema for polars, and one that would drop rows instead of failing."""
        hint = "import pandera.polars as pa, and give a pa.DataFrameSchema or a pa.DataFrameModel"
        self.require(is_data_schema(self.schema), f"{type(self.schema).__name__} is no schema for polars", hint)
        drops = getattr(self.schema, "drop_invalid_rows", False)
        self.require(not drops, "the schema drops invalid rows, so it never fails", "leave drop_invalid_rows out")

    def needs(self) -> OfflineNeeds:
        """Ask for the schema to be put to the training rows."""
        return OfflineNeeds(data=((self.digest(), self.schema),))

    def judge(self, evidence: Evidence) -> Verdict:
        """Read what became of it."""
        found = next((checked for checked in evidence.data if checked.schema == self.digest()), None)
        if found is None or found.problem:
            why = "the training rows were not checked" if found is None else f"it cannot be checked: {found.problem}"
            return self.verdict(Outcome.INCONCLUSIVE, why, back_to="strategy")
        if not found.breaches:
            return self.verdict(Outcome.PASS, f"{found.num_rows} training rows hold to it", rows=found.num_rows)
        outcome = Outcome.FAIL
        broken = sum(breach.num_rows for breach in found.breaches)
        return self.verdict(outcome, found.told(), back_to="data", breaches=len(found.breaches), broken=broken)

    def to_json(self) -> Json:
        """Return the member as canonical JSON, with the schema as what it tests."""
        return {"stage": self.stage, "member": type(self).__name__, "params": {"schema": schema_json(self.schema)}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataChecks) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return f"DataChecks(schema={schema_text(self.schema)} {digest(self.to_json())})"

    def __str__(self) -> str:
        return f"DataChecks({schema_text(self.schema)})"
