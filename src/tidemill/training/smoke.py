"""Smoke tests before an unattended training: a few loose checks of what would waste it, each with a likely cause.

They are meant to pass on anything that can work. A failure is worth a person's look.
"""

from __future__ import annotations

import statistics
import time
import traceback
from pathlib import Path

import numpy as np

from tidemill.errors import TidemillError, TrainingError
from tidemill.model import Model, Progress, Trainer, TrainingData, check_scores
from tidemill.records import Outcome, Scalar, Verdict
from tidemill.schema import Array
from tidemill.training.memorise import BATCH, Learnt, batch_of, learnt, more_often, pair_of


class SmokeTestError(TrainingError):
    """A smoke test failed, so nothing was trained; `verdicts` are all of them, `back_to` is where to mend it."""

    def __init__(self, verdicts: tuple[Verdict, ...]) -> None:
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        self.verdicts, self.back_to = verdicts, failed[0].back_to
        super().__init__(
            "; ".join(f"{v.by}: {v.reason}" for v in failed) + ".", f"mend the {self.back_to} and train again"
        )


_TIMED = 5
_INSTALLED = {"site-packages", "dist-packages"}
_NOT_OWN = Path(__file__).parents[1], Path(traceback.__file__).parent


def run(
    trainer: Trainer, data: TrainingData, *, seed: int, workdir: Path, max_latency_ms: float = 1_000.0
) -> tuple[Verdict, ...]:
    """Check the data, then memorise one small batch and time an answer; return a verdict each.

    The batch holds up to 32 rows of all classes in turn, each eight times. A trainer with a method
    `for_smoke(num_rows)` is asked for a copy that suits so little data. What does not fit the batch is shown it five
    times as often, and then two rows of it: a trainer that fits those but not the batch is inconclusive; all else is
    PASS or FAIL. Nothing is trained when the data already fail.
    """
    verdicts = check_data(data)
    if any(v.outcome is Outcome.FAIL for v in verdicts):
        return verdicts
    batch = batch_of(data, np.random.default_rng(seed))
    return (*verdicts, *_check_training(trainer, batch, seed=seed, workdir=workdir, max_latency_ms=max_latency_ms))


def check_data(data: TrainingData) -> tuple[Verdict, ...]:
    """Check shapes, weights, inputs and labels of the training rows."""
    shapes = _shapes(data)
    return (shapes,) if shapes.outcome is Outcome.FAIL else (shapes, _inputs(data), _labels(data))


def _pass(by: str, reason: str, **numbers: Scalar) -> Verdict:
    return Verdict(outcome=Outcome.PASS, by=f"smoke.{by}", reason=reason, numbers=numbers)


def _fail(by: str, reason: str, back_to: str, **numbers: Scalar) -> Verdict:
    return Verdict(outcome=Outcome.FAIL, by=f"smoke.{by}", reason=reason, numbers=numbers, back_to=back_to)


def _shapes(data: TrainingData) -> Verdict:
    if not len(data):
        return _fail("shapes", "there are no training rows; likely nothing is labelled yet", "labels", num_rows=0)
    arrays = {**data.columns, "targets": data.targets, "weights": data.weights}
    short = [name for name, array in arrays.items() if len(array) != len(data)]
    if short:
        reason = f"{short[0]!r} has {len(arrays[short[0]])} rows where there are {len(data)} ids"
        return _fail("shapes", reason, "data", num_rows=len(data))
    wild = [n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if wild:
        reason = f"{wild[0]!r} holds NaN or infinity; likely a missing value that was not imputed"
        return _fail("shapes", reason, "data", num_rows=len(data))
    if (data.weights < 0).any() or not data.weights.sum() > 0:
        return _fail("shapes", "the weights are negative or all 0; likely the dataset stage", "strategy")
    return _pass("shapes", f"{len(data)} rows, all of one length and finite", num_rows=len(data))


def _inputs(data: TrainingData) -> Verdict:
    """Fail when no input varies, or a text is empty everywhere; one constant input is only told."""
    empty = [name for name, column in data.columns.items() if column.dtype == object and not any(column)]
    if empty:
        return _fail("inputs", f"{empty[0]!r} is empty in every row; likely a wrong field is logged", "data")
    constant = [name for name, column in data.columns.items() if _is_constant(column)]
    if len(data) > 1 and len(constant) == len(data.columns):
        return _fail("inputs", "every input is the same in all rows; likely a wrong field is logged", "data")
    told = f"; constant: {', '.join(constant)}" if constant else ""
    return _pass("inputs", f"{len(data.columns) - len(constant)} inputs vary{told}", num_constant=len(constant))


def _is_constant(column: Array) -> bool:
    return bool((column[1:] == column[:1]).all())


def _labels(data: TrainingData) -> Verdict:
    if data.targets.dtype.kind == "f":
        spread = float(data.targets.std())
        if spread == 0:
            return _fail("labels", f"every label is {data.targets[0]:g}; likely one source labels everything", "labels")
        return _pass("labels", f"labels vary with a standard deviation of {spread:.3g}", standard_deviation=spread)
    names = getattr(data.schema.output, "names", None)
    classes, counts = np.unique(data.targets, return_counts=True)
    shown = [str(names[c]) if names else str(c) for c in classes]
    if len(classes) < 2:
        return _fail("labels", f"every label is {shown[0]!r}; likely one source labels everything", "labels")
    single = [name for name, count in zip(shown, counts, strict=True) if count < 2]
    if len(classes) - len(single) < 2:
        return _fail("labels", f"class {single[0]!r} has a single row; label more of it", "labels")
    # One odd label must not stop a loop that nobody watches.
    told = f"; a single row of: {', '.join(single)}" if single else ""
    return _pass(
        "labels", f"{len(classes)} classes, the rarest with {counts.min()} rows{told}", num_classes=len(classes)
    )


def _check_training(
    trainer: Trainer, batch: TrainingData, *, seed: int, workdir: Path, max_latency_ms: float
) -> tuple[Verdict, ...]:
    if batch.targets.min() == batch.targets.max():
        return (_fail("memorise", "rows with the same inputs have different labels, all of them", "labels"),)

    def shown(rows: TrainingData) -> tuple[Model, Learnt]:
        return _shown(_for_smoke(trainer, len(batch)), rows, seed=seed, workdir=workdir)

    try:
        model, result = shown(batch)
        latency_ms = _latency_ms(model, {name: column[:1] for name, column in batch.columns.items()})
        if not result.something:  # slow to learn is no fault: deep networks, batch norm, a low learning rate
            result = shown(more_often(batch))[1]
        pair = result if result.something else shown(more_often(pair_of(batch)))[1]
    except Exception as error:
        told = error if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}{_place(error)}"
        reason = f"on {BATCH} rows the trainer raised or its scores are unusable: {told}"
        return (_fail("memorise", reason, "training"),)
    return _memorised(result, pair), _latency(latency_ms, max_latency_ms)


def _place(error: Exception) -> str:
    """Say which line raised, where it is the project's own: the last one outside of installed packages."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(Path(f.filename))]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""


def _is_own(path: Path) -> bool:
    """Tell whether a file is the project's: code that was made of text has none."""
    is_elsewhere = _INSTALLED.intersection(path.parts) or any(map(path.is_relative_to, _NOT_OWN))
    return not is_elsewhere and path.is_file()


def _for_smoke(trainer: Trainer, num_rows: int) -> Trainer:
    shorter = getattr(trainer, "for_smoke", None)
    small: Trainer = trainer if shorter is None else shorter(num_rows)
    return small


def _shown(trainer: Trainer, rows: TrainingData, *, seed: int, workdir: Path) -> tuple[Model, Learnt]:
    """Train on `rows`, and return the model and what it learnt of them."""
    model = trainer.train(rows, start_from=None, seed=seed, workdir=workdir, progress=_ignore)
    scores = check_scores(model.predict(rows.columns), num_rows=len(rows), num_scores=rows.schema.output.num_scores)
    return model, learnt(rows, scores)


def _ignore(progress: Progress) -> None:
    """Report nothing: smoke tests are short."""


def _memorised(result: Learnt, pair: Learnt) -> Verdict:
    """Fail only what cannot even tell two rows apart: inputs may simply say little about the label."""
    if result.something:
        return _pass("memorise", f"a small batch is fitted: {result}", **result.numbers)
    if pair.most:
        reason = (
            f"two rows are told apart, a small batch is not: {result}; likely the inputs say little about the label"
        )
        return Verdict(
            outcome=Outcome.INCONCLUSIVE, by="smoke.memorise", reason=reason, numbers=result.numbers, back_to="data"
        )
    return _fail(
        "memorise", f"a small batch cannot be fitted: {result}; likely {result.likely}", "training", **result.numbers
    )


def _latency(latency_ms: float, max_latency_ms: float) -> Verdict:
    reason = f"one answer takes {latency_ms:.3g} ms, {max_latency_ms:g} are allowed"
    if latency_ms > max_latency_ms:
        return _fail("latency", f"{reason}; likely the model is too large", "training", latency_ms=latency_ms)
    return _pass("latency", reason, latency_ms=latency_ms)


def _latency_ms(model: Model, columns: dict[str, Array]) -> float:
    timings = []
    for _ in range(_TIMED):
        begun = time.perf_counter()
        model.predict(columns)
        timings.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(timings)
