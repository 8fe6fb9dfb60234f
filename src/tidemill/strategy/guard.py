"""What watches a rollout: each guard gathers evidence about the candidate, and says stay, leave or roll back."""

from __future__ import annotations

from tidemill.strategy.guard_failures import Abstains, Disagreement, Errors, Latency
from tidemill.strategy.guard_losses import NoWorse
from tidemill.strategy.guard_means import Difference
from tidemill.strategy.guard_sample_ratio import SampleRatio
from tidemill.strategy.guarding import Guard

__all__ = ["Abstains", "Difference", "Disagreement", "Errors", "Guard", "Latency", "NoWorse", "SampleRatio"]
