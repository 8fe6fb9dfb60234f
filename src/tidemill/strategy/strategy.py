"""The Strategy: six stages in loop order, as one frozen value that is hashed, versioned and compared."""

# ruff: noqa: RUF009 (members are frozen, so a default may be shared)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Self

from tidemill.errors import ProjectError
from tidemill.fingerprint import digest
from tidemill.records import Json, Trust
from tidemill.strategy import dataset, guard, log
from tidemill.strategy.adapt import Adapt, Never
from tidemill.strategy.curate import Curate, Mix, Random
from tidemill.strategy.dataset import Dataset
from tidemill.strategy.diff import diff_json
from tidemill.strategy.gate import Offline
from tidemill.strategy.label import Feedback, Label
from tidemill.strategy.log import Log
from tidemill.strategy.member import Member, plain, shown_duration
from tidemill.strategy.offline import NoWorse
from tidemill.strategy.online import Gradual, Online, Shadow
from tidemill.strategy.span import Span
from tidemill.strategy.trigger import Degraded, Every, Trigger

__all__ = ["Strategy", "diff_json"]

FAMILIES: Mapping[str, type[Member]] = {
    "log": Log, "curate": Curate, "label": Label, "trigger": Trigger,
    "dataset": Dataset, "offline": Offline, "online": Online, "adapt": Adapt,
}  # fmt: skip

# The default labels are the crowd's, so the guard reads those: users are drawn for either arm alike, and so is what
# they get wrong. A strategy with labels that can be trusted more says so.
_ONLINE = Shadow() >> Gradual(guards=(guard.Errors(), guard.NoWorse(trust=Trust.CROWD)))


class _Tests:
    """A field that takes one offline member or several, and is a tuple of them."""

    def __init__(self, *default: Offline) -> None:
        self.default = default

    def __get__(self, instance: Any, owner: type | None = None) -> tuple[Offline, ...]:
        tests: tuple[Offline, ...] = self.default if instance is None else instance.__dict__["offline"]
        return tests

    def __set__(self, instance: Any, value: Offline | Sequence[Offline]) -> None:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        instance.__dict__["offline"] = tuple(value) if several else (value,)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a deployed model keeps learning. `Strategy()` alone is a sensible one; replace the stages you know better.

    `offline` takes one member or a list, and all must pass. Curation that has no `Random` gets a tenth of it. A member
    whose `metric` is None means the project's first metric. `start_from` is what training begins with: `scratch`, or
    `live` to fine-tune the live version. `test_trust` is the weakest trust of the labels that a candidate is tested by:
    where labels come from users alone, say `test_trust="crowd"`, or only imported rows ever judge a candidate. Between
    trainings, `adapt` may re-fit the policy of the live version.

    ```python
    Strategy(label=label.Queue(daily_budget=200), trigger=trigger.Degraded("accuracy", drop=0.03))
    ```

    Raises:
        ProjectError: a stage is of another family; the message names the stage, the value and the family expected.
    """

    log: Log = log.Everything()
    curate: Curate = Random()
    label: Label = Feedback()
    trigger: Trigger = (Degraded(None, drop=0.03) | Every("30d")).at_most("1d")
    dataset: Dataset = dataset.Everything()
    offline: _Tests = _Tests(NoWorse(by="cohort"))
    online: Online = _ONLINE
    adapt: Adapt = Never()
    curate_every: Span = Span("1h")
    train_timeout: Span = Span("6h")
    start_from: str = "scratch"
    test_trust: str = Trust.PEOPLE

    def __post_init__(self) -> None:
        for stage, family in FAMILIES.items():
            value = getattr(self, stage)
            for member in value if stage == "offline" else (value,):
                _check_family(stage, member, family)
        self._check_settings()
        if not isinstance(self.curate, Random | Mix):
            object.__setattr__(self, "curate", Mix((self.curate,)))

    def _check_settings(self) -> None:
        if self.curate_every <= timedelta(0):
            raise ProjectError("strategy.curate_every is 0.", "give how often to curate, such as '1h'")
        if self.train_timeout <= timedelta(0):
            raise ProjectError("strategy.train_timeout is 0.", "give how long a training may take, such as '6h'")
        if self.start_from not in ("scratch", "live"):
            raise ProjectError(f"strategy.start_from is {self.start_from!r}.", "give 'scratch' or 'live'")
        if self.test_trust not in tuple(Trust):
            raise ProjectError(f"strategy.test_trust is {self.test_trust!r}.", f"give one of {', '.join(Trust)}")
        object.__setattr__(self, "test_trust", Trust(self.test_trust))

    def resolved(self, metric: str, *, binary: bool = True) -> Self:
        """Return the strategy with the project's first metric in place of None.

        `binary` says that a row of this metric is right or wrong, and nothing between.
        """
        return replace(
            self,
            trigger=self.trigger.resolved(metric, binary=binary),
            offline=tuple(member.resolved(metric) for member in self.offline),
            online=self.online.resolved(metric, binary=binary),
        )

    def to_json(self) -> Json:
        """Return the strategy as canonical JSON."""
        return {spec.name: plain(getattr(self, spec.name), f"strategy.{spec.name}") for spec in fields(self)}

    def digest(self) -> str:
        """Return the hash of the canonical JSON: 16 hex digits."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest(self.to_json())  # asked for at every turn

    def diff(self, other: Strategy) -> list[str]:
        """Return one line for each thing that `other` does differently: `trigger.Degraded.drop: 0.03 -> 0.05`."""
        return diff_json(self.to_json(), other.to_json())

    def __str__(self) -> str:
        return "\n".join(f"{spec.name:14}{_text(getattr(self, spec.name))}" for spec in fields(self))


def _check_family(stage: str, member: object, family: type[Member]) -> None:
    if isinstance(member, family):
        return
    given = f"a member of {member.stage}" if isinstance(member, Member) else f"of type {type(member).__name__}"
    shown = str(member) if isinstance(member, Member) else repr(member)
    raise ProjectError(
        f"strategy.{stage} is {shown}, {given}, and not of {family.stage}.", f"give a member of tm.{family.stage}"
    )


def _text(value: object) -> str:
    if isinstance(value, timedelta):
        return shown_duration(value)
    return "; ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
