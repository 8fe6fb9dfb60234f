"""What `tm.trainers.Torch` trains: the loop over mini-batches, and the module behind its transforms.

Imported only where torch is installed; `tidemill.training.trainers` is what a project file sees.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from tidemill.errors import ModelError, NotExportable, ProjectError, TrainingError
from tidemill.model import Progress, Report, TrainingData
from tidemill.schema import Array, Columns
from tidemill.training import torch_pt2
from tidemill.training.augment import Augment, augmented
from tidemill.training.fitted import Fitted
from tidemill.training.torch_onnx import convert
from tidemill.transforms import Pipeline

WEIGHTS = "weights.safetensors"
_ABOUT = "torch.json"
_REPORT_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class How:
    """The parameters of `tm.trainers.Torch` that say how its module is trained."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip: float | None
    device: str
    augment: tuple[Augment, ...] = ()


def fit(
    make: Callable[[], Any],
    pipeline: Pipeline,
    data: TrainingData,
    *,
    how: How,
    start_from: Path | None,
    seed: int,
    progress: Report,
) -> TorchModel:
    """Train what `make` makes, as `how` says, on the features of `data`.

    Raises:
        TrainingError: the module does not take the features or gives another shape, the loss or its gradient is not
            finite, or the version to start from has other weights or transforms.
    """
    fitted = Fitted.fit(pipeline, data.columns) if start_from is None else _parents(start_from, pipeline)
    with _deterministic(seed):
        module = _made(make)
        model = TorchModel(
            module=module,
            fitted=fitted,
            num_scores=data.schema.output.num_scores,
            classes=bool(np.issubdtype(data.targets.dtype, np.integer)),
            factory=f"{make.__module__}:{make.__qualname__}",
        )
        _check_forward(model, data)
        if start_from is not None:
            _load_weights(module, start_from)
        _Run(how, model, data, seed, progress).train()
    return model


@dataclass(frozen=True, eq=False, kw_only=True)
class TorchModel:
    """A module behind its transforms. With `classes` its scores are the softmax of what it returns."""

    module: Any
    fitted: Fitted
    num_scores: int
    classes: bool
    factory: str  # module:name of what makes the module again
    notes: str = ""

    def predict(self, columns: Columns) -> Array:
        """Return scores float32 (N, K)."""
        with torch.inference_mode():
            out = self.logits(columns, torch.device("cpu"))
            scores: Array = (torch.softmax(out, dim=1) if self.classes else out).float().numpy()
        return scores

    def logits(self, columns: Columns, device: torch.device) -> torch.Tensor:
        """Return what the module makes of a batch, (N, K).

        Raises:
            TrainingError: it raised, or gives another shape.
        """
        features = {name: torch.from_numpy(array).to(device) for name, array in self.fitted.apply(columns).items()}
        num_rows = len(next(iter(features.values())))
        try:
            out = self.module(**features)
        except (TypeError, RuntimeError, ValueError) as error:
            shapes = ", ".join(f"{name} {tuple(f.shape)}" for name, f in features.items())
            raise TrainingError(
                f"{self.factory} raised {type(error).__name__}: {error}", f"its forward is given {shapes}, by name"
            ) from error
        shape = tuple(getattr(out, "shape", ()))
        if shape == (num_rows,) and self.num_scores == 1:
            return out.reshape(num_rows, 1)
        if shape != (num_rows, self.num_scores):
            raise TrainingError(
                f"{self.factory} returned {type(out).__name__} of shape {shape}, not {(num_rows, self.num_scores)}.",
                "return one logit a class, in the schema's order, or one value",
            )
        return out

    def to_onnx(self, columns: Columns) -> bytes:
        """Return a graph of the module and, for classes, the softmax.

        Raises:
            NotExportable: torch cannot export it.
        """
        return convert(self.module, self.fitted, columns, num_scores=self.num_scores, classes=self.classes)

    def to_pt2(self, columns: Columns) -> bytes:
        """Return the module and, for classes, the softmax as a torch.export program.

        Raises:
            NotExportable: torch cannot export it, or what it exports answers otherwise.
        """
        raw = torch_pt2.convert(self.module, self.fitted, columns, num_scores=self.num_scores, classes=self.classes)
        if not np.allclose(torch_pt2.scores_of(raw, self.fitted, columns), self.predict(columns), rtol=1e-4, atol=1e-4):
            raise NotExportable("its torch.export program answers otherwise")
        return raw

    def save_weights(self, folder: Path) -> None:
        """Write `weights.safetensors`, which a later version may start from."""
        save_model(self.module, str(folder / WEIGHTS))

    def save(self, folder: Path) -> None:
        """Write the weights, and how to make the module again."""
        self.save_weights(folder)
        self.fitted.save(folder)
        about = {"factory": self.factory, "num_scores": self.num_scores, "classes": self.classes}
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the module's class must be importable under the name it had.

        Raises:
            ModelError: it is not, or the weights do not fit it.
        """
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        name, _, path = about["factory"].partition(":")
        try:
            make: Any = functools.reduce(getattr, path.split("."), importlib.import_module(name))
            module = make()
            load_model(module, str(folder / WEIGHTS))
        except (ImportError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"{about['factory']} cannot be made again: {error}", "keep the class where it was when it was trained"
            ) from error
        return cls(module=module.eval(), fitted=Fitted.load(folder), **about)


class _Run:
    """One training: optimiser, order of the rows, and the step."""

    def __init__(self, how: How, model: TorchModel, data: TrainingData, seed: int, progress: Report) -> None:
        self._how, self._model, self._data, self._progress = how, model, data, progress
        cuda = how.device == "cuda" or (how.device == "auto" and torch.cuda.is_available())
        self._device = torch.device("cuda" if cuda else "cpu")
        self._seed = seed
        self._order = torch.Generator().manual_seed(seed)
        model.module.to(self._device)
        parameters = [p for p in model.module.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(parameters, lr=how.lr, weight_decay=how.weight_decay)
        self._parameters = parameters
        self._step = 0

    def train(self) -> None:
        """Run all epochs, and leave the module on the CPU in evaluation mode."""
        num_steps = self._how.epochs * len(self._batches(torch.arange(len(self._data))))
        for epoch in range(self._how.epochs):
            self._model.module.train()
            losses = []
            for rows in self._batches(torch.randperm(len(self._data), generator=self._order)):
                losses.append(self._learn(rows, epoch))
                self._step += 1
                if self._step % _REPORT_STEPS == 0 or self._step % max(num_steps // self._how.epochs, 1) == 0:
                    recent = float(np.mean(losses[-_REPORT_STEPS:]))
                    self._progress(
                        Progress(
                            fraction=self._step / num_steps,
                            message=f"epoch {epoch + 1} of {self._how.epochs}",
                            numbers={"loss": recent},
                        )
                    )
        self._model.module.eval().to("cpu")

    def _batches(self, order: torch.Tensor) -> list[Array]:
        """Cut the rows into batches; a last one of a single row is left out, since batch norm cannot learn from it."""
        parts = [part.numpy() for part in order.split(self._how.batch_size)]
        return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 < self._how.batch_size else parts

    def _learn(self, rows: Array, epoch: int) -> float:
        columns: Columns = {name: column[rows] for name, column in self._data.columns.items()}
        if self._how.augment:
            drawn = np.random.default_rng([self._seed, 1 + self._step])
            columns = augmented(self._how.augment, self._data.schema, columns, drawn)
        out = self._model.logits(columns, self._device)
        weights = torch.from_numpy(self._data.weights[rows]).to(self._device, torch.float32)
        loss = (self._losses(out, self._data.targets[rows]) * weights).mean()
        self._check_finite("loss", float(loss.detach()), epoch, columns)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        norm = nn.utils.clip_grad_norm_(self._parameters, self._how.clip or math.inf)
        self._check_finite("gradient", float(norm), epoch, columns)
        self._optimiser.step()
        return float(loss.detach())

    def _losses(self, out: torch.Tensor, targets: Array) -> torch.Tensor:
        """Return one loss a row."""
        wanted = torch.from_numpy(targets).to(self._device)
        if self._model.classes:
            return nn.functional.cross_entropy(out, wanted, reduction="none")
        return ((out - wanted.to(out.dtype).reshape(out.shape)) ** 2).mean(dim=1)

    def _check_finite(self, what: str, value: float, epoch: int, columns: Columns) -> None:
        if math.isfinite(value):
            return
        largest = max(float(np.abs(f).max(initial=0)) for f in self._model.fitted.apply(columns).values())
        cause = (
            f"the features reach {largest:.3g}: scale them, with transforms.Standardise"
            if largest > 1e3
            else f"lower lr (it is {self._how.lr:g}), or set clip=1.0"
        )
        raise TrainingError(f"the {what} is {value} at step {self._step + 1}, in epoch {epoch + 1}.", cause)


def _made(make: Callable[[], Any]) -> Any:
    module = make()
    if not isinstance(module, nn.Module):
        raise ProjectError(f"{make.__qualname__}() gives a {type(module).__name__}, no nn.Module.", "return one")
    return module


def _check_forward(model: TorchModel, data: TrainingData) -> None:
    """Run one small batch before anything is spent; this also gives lazy layers their shapes."""
    model.module.eval()
    with torch.no_grad():
        model.logits({name: column[:2] for name, column in data.columns.items()}, torch.device("cpu"))


def _parents(start_from: Path, pipeline: Pipeline) -> Fitted:
    fitted = Fitted.of_version(start_from)
    if fitted.pipeline != pipeline:
        raise TrainingError(
            "the version to start from has other transforms than the project has now.",
            "train afresh once after changing the transforms",
        )
    return fitted


def _load_weights(module: nn.Module, start_from: Path) -> None:
    path = start_from / WEIGHTS
    if not path.is_file():
        raise TrainingError(
            f"the version to start from has no {WEIGHTS}: another trainer made it.", "train afresh once with this one"
        )
    try:
        load_model(module, str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"the weights of the version to start from do not fit the module: {reason[:300]}",
            "train afresh once after changing the module",
        ) from error


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed torch and prefer deterministic kernels; both are put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warned)
