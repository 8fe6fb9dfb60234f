"""The declaration of one deployed product, and how it is found in a file and compiled to a Manifest."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np

from tidemill.batches import Batch
from tidemill.clock import duration
from tidemill.errors import InvalidInput, ProjectError, TidemillError
from tidemill.manifest import Limits, Manifest
from tidemill.model import Trainer
from tidemill.policy import Policy
from tidemill.projections import Projection
from tidemill.records import JUDGEMENTS, Trust
from tidemill.schema import RESERVED, Classes, Input, Output, Schema
from tidemill.stats.metrics import F1, Accuracy, Judged, MeanAbsoluteError, Metric, events_of, match
from tidemill.strategy.alert import Alert
from tidemill.strategy.strategy import Strategy
from tidemill.strategy.suites import Suites
from tidemill.suites import Suite

_COHORTS_OF_REPORTS = ("all", "newest", "unsampled")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Project:
    """One deployed product: what goes in and out, how it is trained, measured, and kept learning.

    `unit` names what the route sticks to and statistics count once. The first of `metrics` is the one to optimise.
    `cohorts` are SQL conditions over tags, inputs and projections. `suites` are test cases that candidates have to
    pass. `policy` is how scores become decisions at first; `tidemill policy` changes it later, without a new model.
    `alerts` say what people want to be told of. `batches` are predictions over whole tables that the loop makes on a
    schedule.
    With `near_duplicates`, examples whose text, images or tensors are nearly the same are all for training or all for
    tests, as equal ones always are. `keep_log` is how long predictions and feedback stay in the log, in whole days; by
    default for ever; `keep_versions` how many of the newest versions keep their artefacts and datasets, by default all.
    `default` is the decision that is answered when no version can, instead of a refusal. With
    `cache_bytes`, each gateway process remembers the scores of inputs it has seen, in so much memory.

    Raises:
        ProjectError: something in it is wrong; the message names the part, the value and the next move.
    """

    name: str
    inputs: Mapping[str, Input]
    output: Output
    trainer: Trainer
    unit: str = "request"
    metrics: Sequence[Metric] = ()
    projections: Mapping[str, Projection] = field(default_factory=dict)
    cohorts: Mapping[str, str] = field(default_factory=dict)
    suites: Sequence[Suite] = ()
    alerts: Sequence[Alert] = ()
    strategy: Strategy = field(default_factory=Strategy)
    policy: Policy = field(default_factory=Policy)
    near_duplicates: bool = True
    batches: Sequence[Batch] = ()
    keep_log: timedelta | str | None = None
    keep_versions: int | None = None
    limits: Limits = field(default_factory=Limits)
    default: str | float | None = None
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        self._check_name()
        _ = self.schema
        object.__setattr__(self, "metrics", tuple(self.metrics) or (_default_metric(self.output),))
        self._check_metrics()
        self._check_names_are_free()
        if isinstance(self.trainer, type) or not isinstance(self.trainer, Trainer):
            raise ProjectError(
                f"trainer is {self.trainer!r}, which has no `train` and `to_json`.",
                "use tm.trainers.Sklearn, tm.trainers.Torch or a class with these two methods",
            )
        first = self.metrics[0]
        resolved = self.strategy.resolved(first.name, binary=first.bounds == (0.0, 1.0))
        object.__setattr__(self, "strategy", resolved)
        self._check_metrics_are_declared()
        self._check_dataset()
        self._check_suites()
        self._check_policy()
        self._check_serving()
        self._check_keep_log()
        self._check_keep_versions()
        self._check_batches()
        self._check_alerts()

    def _check_name(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ProjectError(
                f"project name {self.name!r} is not a plain name.",
                "use lower-case letters, digits, '-' and '_', such as 'moderation'",
            )

    def _check_metrics(self) -> None:
        """Compute each metric on one row, so that one which does not fit the output is found now."""
        row = _one_judged(self.output)
        for metric in self.metrics:
            if isinstance(metric, type) or not hasattr(metric, "rows"):
                raise ProjectError(
                    f"{metric!r} is no metric.", "use tm.metrics.Accuracy(), tm.metrics.F1('toxic'), ..."
                )
            if isinstance(metric, F1) and metric.label not in row.classes:
                raise ProjectError(f"{metric.label!r} is no class, so {metric.name} is never known.", "name a class")
            try:
                metric.value(row)
            except Exception as error:
                reason = error.message if isinstance(error, ProjectError) else str(error)
                raise ProjectError(
                    f"metric {metric.name} does not fit the output: {reason}", "choose one that does"
                ) from error
        for name in [m.name for m in self.metrics]:
            if [m.name for m in self.metrics].count(name) > 1:
                raise ProjectError(f"two metrics are called {name!r}.", "declare it once")

    def _check_names_are_free(self) -> None:
        taken = {*self.inputs, *RESERVED, *_COHORTS_OF_REPORTS}
        for kind, names in (("projection", self.projections), ("cohort", self.cohorts)):
            for name in names:
                if not name.isidentifier() or name in taken:
                    raise ProjectError(f"{kind} name {name!r} is no plain name, or is taken.", "choose another name")
        events = {f"event_{event}" for event in events_of(self.metrics)}
        for name in events & set(self.inputs):
            raise ProjectError(f"input {name!r} has the name of an event's column.", "rename the input")

    def _check_metrics_are_declared(self) -> None:
        stages = self.strategy
        for member in stages.offline:
            for name in member.needs().metrics:
                self.metric(name)
        for stage, needs in (("trigger", stages.trigger.needs()), ("online", stages.online.needs())):
            for name in needs.metrics:
                if self.metric(name).rows(_one_judged(self.output)) is None:
                    raise ProjectError(
                        f"strategy.{stage} watches {name!r}, which has no value for a single request.",
                        "watch accuracy, log_loss, mean_absolute_error or an event rate there; the gate may read it",
                    )

    def _check_dataset(self) -> None:
        if self.strategy.dataset.needs_classes and not isinstance(self.output, Classes):
            raise ProjectError(
                f"strategy.dataset is {self.strategy.dataset}, and the output has no classes to balance.",
                "leave Balanced out, or declare tm.Classes([...])",
            )

    def _check_suites(self) -> None:
        object.__setattr__(self, "suites", tuple(self.suites))
        for suite in self.suites:
            if not isinstance(suite, Suite):
                raise ProjectError(f"{suite!r} is no suite.", "use tm.suites.Cases(...), tm.suites.Invariant(...), ...")
            suite.check(self.output)
        names = [suite.name for suite in self.suites]
        for name in names:
            if names.count(name) > 1:
                raise ProjectError(f"two suites are called {name!r}.", "give each a name of its own")
        if not names and any(isinstance(member, Suites) for member in self.strategy.offline):
            raise ProjectError(
                "strategy.offline has Suites(), and the project has no suites.", "add suites=[...] to the project"
            )

    def _check_policy(self) -> None:
        if not isinstance(self.policy, Policy):
            raise ProjectError(f"policy is {self.policy!r}.", "give tm.Policy(abstain_below=0.6), or leave it out")
        self.policy.check(self.output)

    def _check_serving(self) -> None:
        if self.default is not None:
            try:
                object.__setattr__(self, "default", self.output.parse_label(self.default))
            except InvalidInput as error:
                raise ProjectError(f"default is no decision: {error.message}", error.hint) from error
        if type(self.cache_bytes) is not int or self.cache_bytes < 0:
            raise ProjectError(f"cache_bytes is {self.cache_bytes!r}.", "give a number of bytes, such as 64 * 2**20")

    def _check_keep_log(self) -> None:
        if self.keep_log is None:
            return
        age = duration(self.keep_log, name="keep_log")
        object.__setattr__(self, "keep_log", age)
        least = timedelta(days=1) + self.strategy.label.horizon + self.strategy.curate_every
        if age < least:
            raise ProjectError(
                f"keep_log is {age}: the loop would lose requests before their feedback has come.",
                f"keep at least {math.ceil(least / timedelta(days=1))} days",
            )

    def _check_keep_versions(self) -> None:
        if self.keep_versions is not None and (type(self.keep_versions) is not int or self.keep_versions < 1):
            raise ProjectError(
                f"keep_versions is {self.keep_versions!r}.", "give a number of at least 1, or leave it out to keep all"
            )

    def _check_batches(self) -> None:
        object.__setattr__(self, "batches", tuple(self.batches))
        names = [one.name if isinstance(one, Batch) else repr(one) for one in self.batches]
        wrong = [one for one in self.batches if not isinstance(one, Batch)]
        if wrong or len(set(names)) < len(names):
            problem = f"{wrong[0]!r} is no batch" if wrong else "two batches have one name"
            raise ProjectError(f"batches: {problem}.", 'use tm.batch("nightly", ...), each with its own name')

    def _check_alerts(self) -> None:
        object.__setattr__(self, "alerts", tuple(self.alerts))
        for alert in self.alerts:
            if not isinstance(alert, Alert):
                raise ProjectError(f"{alert!r} is no alert.", "use tm.alert.Falls('accuracy'), tm.alert.Silent('1h')")
            self._check_alert(alert)
        if len({alert.name for alert in self.alerts}) < len(self.alerts):
            raise ProjectError("two alerts are the same.", "declare each once")

    def _check_alert(self, alert: Alert) -> None:
        if alert.about not in ("all", *self.cohorts):
            raise ProjectError(
                f"{alert} watches cohort {alert.about!r}, which is not declared.",
                f"there is {', '.join(self.cohorts) or 'none'}",
            )
        needs = alert.needs()
        for name in () if needs is None else needs.metrics:
            if self.metric(name).rows(_one_judged(self.output)) is None:
                raise ProjectError(f"{alert} watches {name!r}, which no single request has.", "watch another metric")

    @property
    def log_age(self) -> timedelta | None:
        """How long predictions and feedback stay in the log; None for ever."""
        return None if self.keep_log is None else duration(self.keep_log)

    @cached_property
    def schema(self) -> Schema:
        """The inputs and the output, checked."""
        return Schema(self.inputs, self.output)

    def metric(self, name: str) -> Metric:
        """Return the metric called `name` (`"f1"` finds `"f1_toxic"` when there is one F1 only).

        Raises:
            ProjectError: none is declared under that name.
        """
        return self.metrics[match([m.name for m in self.metrics], name)]

    def compile(self) -> Manifest:
        """Return what the gateway needs to know."""
        feedback = self.strategy.label.feedback
        return Manifest(
            project=self.name,
            schema=self.schema,
            log=self.strategy.log,
            unit=self.unit,
            feedback=Trust(feedback.trust) if feedback else Trust.CROWD,
            events=tuple(event for event in events_of(self.metrics) if event not in JUDGEMENTS),
            policy=self.policy,
            limits=self.limits,
            default=self.default,
            cache_bytes=self.cache_bytes,
            strategy=self.strategy.digest(),
        )


def _one_judged(output: Output) -> Judged:
    """Return a row whose decision is right: enough to see whether a metric can be computed."""
    scores = np.zeros((1, output.num_scores))
    decisions = output.decide(scores)
    column = np.array([*decisions, None], dtype=object)[:-1] if isinstance(output, Classes) else np.array(decisions)
    classes = tuple(output.names) if isinstance(output, Classes) else ()
    return Judged(decisions=column, labels=column, scores=scores, targets=output.targets(decisions), classes=classes)


def _default_metric(output: Output) -> Metric:
    return Accuracy() if isinstance(output, Classes) else MeanAbsoluteError()


def load_project(path: str) -> Project:
    """Import `"file.py"` or `"file.py:name"` and return its Project.

    Without a name, the file's only Project is taken, or the one called `project`.

    Raises:
        ProjectError: no such file, it raises, or it holds no (single) Project; the message gives the line.
    """
    file, _, name = path.partition(":")
    module = _import(Path(file))
    found = {n: v for n, v in vars(module).items() if isinstance(v, Project)}
    if name:
        if name not in found:
            raise ProjectError(f"{file} has no Project called {name!r}.", f"it has {', '.join(found) or 'none'}")
        return found[name]
    if "project" in found:
        return found["project"]
    if len({id(v) for v in found.values()}) != 1:
        raise ProjectError(
            f"{file} holds {len(found)} Projects.", "write `project = tm.Project(...)`, or name one as file.py:name"
        )
    return next(iter(found.values()))


def load_strategy(path: str) -> Strategy:
    """Import `"file.py"` or `"file.py:name"` and return its Strategy, or that of its Project.

    Without a name, the one called `strategy` is taken, else the file's only one, else its Project's. Nothing that was
    imported before is changed: the file may have the name of another one.

    Raises:
        ProjectError: no such file, it raises, or it holds no (single) one of them; the message gives the line.
    """
    file, _, name = path.partition(":")
    before, paths = sys.modules.get(Path(file).stem), list(sys.path)
    found = vars(_import(Path(file)))
    sys.path[:] = paths
    _forget(Path(file).stem, before)
    given = {n: v for n, v in found.items() if isinstance(v, Strategy | Project)}
    of_strategy = {n: v for n, v in given.items() if isinstance(v, Strategy)}
    if not name:
        some = of_strategy or given
        name = next((n for n in ("strategy", "project") if n in some), next(iter(some)) if len(some) == 1 else "")
    if name not in given:
        has = ", ".join(given) or "none"
        raise ProjectError(
            f"{file} has no single Strategy or Project{f' called {name!r}' if name else ''}; it has {has}.",
            "write `strategy = tm.Strategy(...)`, or name one as file.py:name",
        )
    one = given[name]
    return one.strategy if isinstance(one, Project) else one


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise ProjectError(f"project file {str(file)!r} does not exist.", "run `tidemill init`, or name the file")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file may import its neighbours
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ProjectError(f"project file {str(file)!r} is no Python file.", "name a .py file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.pop(file.stem, None)
    sys.modules[file.stem] = module  # models and callables are found again by module and name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _forget(file.stem, before)
        if isinstance(error, TidemillError):
            raise ProjectError(f"{_where(file, error)}: {error.message}", error.hint) from error
        what = f"{_where(file, error)}: {type(error).__name__}: {error}"
        raise ProjectError(what, "mend the line and check again") from error
    return module


def _forget(name: str, before: ModuleType | None) -> None:
    """Leave no half-made module behind."""
    sys.modules.pop(name, None)
    if before is not None:
        sys.modules[name] = before


def _where(file: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).name == file.name:
        return f"{file.name}, line {error.lineno}"
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file.resolve()
    ]
    return f"{file.name}, line {lines[-1]}" if lines else file.name
