"""A Project compiled to plain JSON: all that the gateway needs, which never imports the project file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from tidemill.errors import InvalidInput, ProjectError
from tidemill.policy import Policy
from tidemill.records import Json, Trust
from tidemill.schema import Schema
from tidemill.strategy.log import Everything, Log, log_from_json

_EVERYTHING = Everything()
_POLICY = Policy()

MANIFEST_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a gateway accepts, how long an answer may take, and what a model may use.

    Attributes:
        max_body_bytes: of a request.
        max_batch: rows that a model is given at once.
        timeout_s: how long an answer may take, with all versions that are tried.
        max_waiting: requests queued for one version; beyond it the gateway answers 503.
        max_wait_s: and as soon as those that wait take longer than this, as quick as the version is now.
        copies: how many batches of a version may run at the same time in a gateway process: each on a worker process of
            its own, or, of an ONNX model, on a thread.
        threads: how many threads each copy has; by default one for a quick model, and for a slow one its share of the
            cores.
        worker_growth_bytes: how much memory a worker process may gain after its first batch before another takes its
            place; None for any amount.
    """

    max_body_bytes: int = 4 * 1024 * 1024
    max_batch: int = 64
    timeout_s: float = 10.0
    max_waiting: int = 2048
    max_wait_s: float = 1.0
    copies: int = 1
    threads: int | None = None
    worker_growth_bytes: int | None = 1 << 30

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_waiting", "copies", "threads", "worker_growth_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ProjectError(f"Limits({name}={value!r}) is no positive integer.", "give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the gateway knows of a project.

    `unit` is what people call the unit in this product. `feedback` is the trust that feedback over HTTP has; `events`
    are the event kinds it accepts beside labels, ratings and thumbs. `policy` is the declared one: the route says which
    is in force. `default` is the decision when no version can answer, None for a refusal. `cache_bytes` is how much
    memory each gateway process may use to remember scores.
    """

    project: str
    schema: Schema
    log: Log = _EVERYTHING
    unit: str = "request"
    feedback: Trust = Trust.CROWD
    events: tuple[str, ...] = ()
    policy: Policy = _POLICY
    limits: Limits = Limits()
    default: str | float | None = None
    cache_bytes: int = 0
    strategy: str = ""

    def under(self, schema: Schema) -> Manifest:
        """Return the same with other inputs or another output; a default that this output refuses is left out."""
        try:
            default = None if self.default is None else schema.output.parse_label(self.default)
        except InvalidInput:
            default = None
        return replace(self, schema=schema, default=default)

    def to_json(self) -> Json:
        """Return the manifest as JSON."""
        return {
            "format": MANIFEST_FORMAT,
            "project": self.project,
            "schema": self.schema.to_json(),
            "log": self.log.to_json(),
            "unit": self.unit,
            "feedback": str(self.feedback),
            "events": list(self.events),
            "policy": self.policy.to_json(),
            "limits": asdict(self.limits),
            "default": self.default,
            "cache_bytes": self.cache_bytes,
            "strategy": self.strategy,
        }

    @classmethod
    def from_json(cls, data: Json) -> Manifest:
        """Read what `to_json` wrote."""
        return cls(
            project=data["project"],
            schema=Schema.from_json(data["schema"]),
            log=log_from_json(data["log"]),
            unit=data["unit"],
            feedback=Trust(data["feedback"]),
            events=tuple(data["events"]),
            policy=declared_policy(data),
            limits=Limits(**data["limits"]),
            default=data.get("default"),
            cache_bytes=data.get("cache_bytes", 0),
            strategy=data["strategy"],
        )


def declared_policy(data: Json) -> Policy:
    """Return the policy that a manifest declares; before policies had versions it was a level alone."""
    return Policy.from_json(data.get("policy") or {"abstain_below": data.get("abstain_below")})
