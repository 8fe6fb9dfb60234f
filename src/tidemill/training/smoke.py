"""Smoke tests before an unattended training: a few loose checks of what would waste it, each with a likely cause.

They are meant to pass on anything that can work. A failure is worth a person's look.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.errors import TidemillError, TrainingError
from tidemill.model import Model, Progress, Trainer, TrainingData, check_scores
from tidemill.records import Outcome, Scalar, Verdict
from tidemill.schema import Array

BATCH = 32


class SmokeTestError(TrainingError):
    """A smoke test failed, so nothing was trained; `verdicts` are all of them, `back_to` is where to mend it."""

    def __init__(self, verdicts: tuple[Verdict, ...]) -> None:
        failed = [v for v in verdicts if v.outcome is Outcome.FAIL]
        self.verdicts, self.back_to = verdicts, failed[0].back_to
        super().__init__("; ".join(f"{v.by}: {v.reason}" for v in failed), f"mend the {self.back_to} and train again")

    def __reduce__(self) -> tuple[type[SmokeTestError], tuple[tuple[Verdict, ...]]]:  # type: ignore[override]
        return type(self), (self.verdicts,)


_REPEATS = 8  # so that minimum leaf sizes and few epochs still let a trainer memorise the batch
_TIMED = 5
# Hardly better than the best constant is enough: a weak signal is a hard problem, no broken training.
_BETTER, _ABOVE = 1 - 1e-6, 0.05


def run(
    trainer: Trainer, data: TrainingData, *, seed: int, workdir: Path, max_latency_ms: float = 1_000.0
) -> tuple[Verdict, ...]:
    """Check the data, then memorise one small batch and time an answer; return a verdict each, PASS or FAIL.

    The batch holds up to 32 rows of all classes in turn, each eight times. A trainer with a method
    `for_smoke(num_rows)` is asked for a copy that suits so little data. Nothing is trained when the data already fail.
    """
    verdicts = check_data(data)
    if any(v.outcome is Outcome.FAIL for v in verdicts):
        return verdicts
    batch = _batch(data, np.random.default_rng(seed))
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
    if counts.min() < 2:
        rare = shown[int(counts.argmin())]
        return _fail("labels", f"class {rare!r} has a single row; label more of it, or leave it out", "labels")
    return _pass("labels", f"{len(classes)} classes, the rarest with {counts.min()} rows", num_classes=len(classes))


def _batch(data: TrainingData, rng: np.random.Generator) -> TrainingData:
    """Return up to 32 rows with different inputs, classes in turn, repeated."""
    order = rng.permutation(len(data))
    if data.targets.dtype.kind != "f":
        turn = np.empty(len(data), dtype=np.int64)
        for label in np.unique(data.targets):
            mine = order[data.targets[order] == label]
            turn[mine] = np.arange(len(mine))
        order = order[np.argsort(turn[order], kind="stable")]
    # Rows with the same inputs and other labels cannot be memorised by any model.
    seen: dict[Any, int] = {}
    for i in order:
        seen.setdefault(tuple(_key(column[i]) for column in data.columns.values()), int(i))
        if len(seen) == BATCH:
            break
    return data.take(np.tile(list(seen.values()), _REPEATS))


def _key(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _check_training(
    trainer: Trainer, batch: TrainingData, *, seed: int, workdir: Path, max_latency_ms: float
) -> Iterator[Verdict]:
    """Yield one verdict after another, until one fails."""
    shorter = getattr(trainer, "for_smoke", None)
    small: Trainer = trainer if shorter is None else shorter(len(batch))
    one = {name: column[:1] for name, column in batch.columns.items()}
    try:
        model = small.train(batch, start_from=None, seed=seed, workdir=workdir, progress=_ignore)
        scores = check_scores(
            model.predict(batch.columns), num_rows=len(batch), num_scores=batch.schema.output.num_scores
        )
        latency_ms = _latency_ms(model, one)
    except Exception as error:
        told = error if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
        yield _fail("memorise", f"on {BATCH} rows the trainer raised or its scores are unusable: {told}", "training")
        return
    yield _memorised(batch, scores)
    slow = latency_ms > max_latency_ms
    reason = f"one answer takes {latency_ms:.3g} ms, {max_latency_ms:g} are allowed"
    yield (
        _fail("latency", f"{reason}; likely the model is too large", "training", latency_ms=latency_ms)
        if slow
        else _pass("latency", reason, latency_ms=latency_ms)
    )


def _ignore(progress: Progress) -> None:
    """Report nothing: smoke tests are short."""


def _latency_ms(model: Model, columns: dict[str, Array]) -> float:
    timings = []
    for _ in range(_TIMED):
        begun = time.perf_counter()
        model.predict(columns)
        timings.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(timings)


def _memorised(batch: TrainingData, scores: Array) -> Verdict:
    """Compare with the best constant answer; a model that cannot beat it on rows it was shown learns nothing."""
    if batch.targets.dtype.kind == "f":
        error = float(((scores - batch.targets.reshape(scores.shape)) ** 2).mean())
        constant = float(batch.targets.var())
        ok, numbers = error < _BETTER * constant, {"squared_error": error, "constant_squared_error": constant}
        likely = "the learning rate, or targets far from 0 to 1 that the model never reaches"
    elif len(set(batch.targets.tolist())) == 1:
        return _fail("memorise", "rows with the same inputs have different labels, all of them", "labels")
    else:
        share = np.bincount(batch.targets, minlength=scores.shape[1]) / len(batch)
        accuracy = float((scores.argmax(axis=1) == batch.targets).mean())
        chances = np.clip(scores[np.arange(len(batch)), batch.targets], 1e-7, 1)
        loss, constant = float(-np.log(chances).mean()), float(-(share[share > 0] * np.log(share[share > 0])).sum())
        ok = accuracy > share.max() + _ABOVE or loss < _BETTER * constant
        numbers = {"accuracy": accuracy, "majority": float(share.max()), "log_loss": loss}
        likely = "the learning rate, features that never reach the model, or outputs in another order than the labels"
    shown = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
    if ok and all(math.isfinite(value) for value in numbers.values()):
        return _pass("memorise", f"a batch of {len(batch) // _REPEATS} rows is fitted: {shown}", **numbers)
    return _fail(
        "memorise", f"cannot fit {len(batch) // _REPEATS} rows: {shown}; likely {likely}", "training", **numbers
    )
