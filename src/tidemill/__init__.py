"""Tidemill keeps a deployed deep-learning model learning.

Everything a project file needs is here, loaded when first used: `import tidemill as tm`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.app import App as App
    from tidemill.batches import batch as batch
    from tidemill.errors import TidemillError as TidemillError
    from tidemill.loop.backtest.backtest import backtest as backtest
    from tidemill.loop.backtest.result import BacktestResult as BacktestResult
    from tidemill.manifest import Limits as Limits
    from tidemill.model import Model as Model
    from tidemill.model import Progress as Progress
    from tidemill.model import Trainer as Trainer
    from tidemill.model import TrainingData as TrainingData
    from tidemill.policy import Policy as Policy
    from tidemill.project import Project as Project
    from tidemill.records import Outcome as Outcome
    from tidemill.records import Verdict as Verdict
    from tidemill.schema import Category as Category
    from tidemill.schema import Classes as Classes
    from tidemill.schema import Image as Image
    from tidemill.schema import Number as Number
    from tidemill.schema import Sensitive as Sensitive
    from tidemill.schema import Tensor as Tensor
    from tidemill.schema import Text as Text
    from tidemill.schema import Value as Value
    from tidemill.strategy.strategy import Strategy as Strategy

_NAMES = {
    "App": "tidemill.app",
    "BacktestResult": "tidemill.loop.backtest.result",
    "Category": "tidemill.schema",
    "Classes": "tidemill.schema",
    "Image": "tidemill.schema",
    "Limits": "tidemill.manifest",
    "Model": "tidemill.model",
    "Number": "tidemill.schema",
    "Outcome": "tidemill.records",
    "Policy": "tidemill.policy",
    "Progress": "tidemill.model",
    "Project": "tidemill.project",
    "Sensitive": "tidemill.schema",
    "Strategy": "tidemill.strategy.strategy",
    "Tensor": "tidemill.schema",
    "Text": "tidemill.schema",
    "TidemillError": "tidemill.errors",
    "Trainer": "tidemill.model",
    "TrainingData": "tidemill.model",
    "Value": "tidemill.schema",
    "Verdict": "tidemill.records",
    "backtest": "tidemill.loop.backtest.backtest",
    "batch": "tidemill.batches",
}

_MODULES = {
    "curate": "tidemill.strategy.curate",
    "dataset": "tidemill.strategy.dataset",
    "adapt": "tidemill.strategy.adapt",
    "alert": "tidemill.strategy.alert",
    "augment": "tidemill.training.augment",
    "guard": "tidemill.strategy.guard",
    "label": "tidemill.strategy.label",
    "log": "tidemill.strategy.log",
    "metrics": "tidemill.stats.metrics",
    "offline": "tidemill.strategy.offline",
    "online": "tidemill.strategy.online",
    "presets": "tidemill.strategy.presets",
    "suites": "tidemill.suites",
    "trainers": "tidemill.training.trainers",
    "transforms": "tidemill.transforms",
    "trigger": "tidemill.strategy.trigger",
}

__version__ = "0.1.0"
__all__ = [*_NAMES, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'tidemill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_NAMES, *_MODULES, "__version__"])
