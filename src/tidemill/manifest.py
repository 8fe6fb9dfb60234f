"""A Project compiled to plain JSON: all that the gateway needs, which never imports the project file."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.policy import Policy
from tidemill.records import Json, Trust
from tidemill.schema import Schema
from tidemill.strategy.log import Everything, Log, log_from_json

_EVERYTHING = Everything()
_POLICY = Policy()

MANIFEST_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a gateway accepts, and how long an answer may take."""

    max_body_bytes: int = 4 * 1024 * 1024
    max_batch: int = 64
    timeout_s: float = 10.0
    max_waiting: int = 2048  # requests queued for one version; beyond it the gateway answers 503
    max_wait_s: float = 1.0  # and as soon as those that wait take longer than this, as quick as the version is now


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the gateway knows of a project.

    `unit` is what people call the unit in this product. `feedback` is the trust that feedback over HTTP has; `events`
    are the event kinds it accepts beside labels, ratings and thumbs. `policy` is the declared one: the route says which
    is in force.
    """

    project: str
    schema: Schema
    log: Log = _EVERYTHING
    unit: str = "request"
    feedback: Trust = Trust.CROWD
    events: tuple[str, ...] = ()
    policy: Policy = _POLICY
    limits: Limits = Limits()
    strategy: str = ""

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
            "limits": {
                "max_body_bytes": self.limits.max_body_bytes,
                "max_batch": self.limits.max_batch,
                "timeout_s": self.limits.timeout_s,
                "max_waiting": self.limits.max_waiting,
                "max_wait_s": self.limits.max_wait_s,
            },
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
            strategy=data["strategy"],
        )


def declared_policy(data: Json) -> Policy:
    """Return the policy that a manifest declares; before policies had versions it was a level alone."""
    return Policy.from_json(data.get("policy") or {"abstain_below": data.get("abstain_below")})
