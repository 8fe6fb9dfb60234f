"""Stage 2, first half: which requests deserve a label.

A pick has an **inclusion probability** pi: the chance, under the design, that the request was picked. Deterministic
picks are a stratum of their own with pi = 1; what is left is drawn from by chance. Summing 1/pi over the picks then
counts every request once, whatever the deterministic members prefer (Horvitz and Thompson, JASA 47, 1952). Picks made
because of feedback have no known pi and stay in the pool that chance draws from, so that estimates do not need them.
What nearly repeats an earlier candidate is not chosen, but may be drawn: a draw stands for all requests.
"""

from __future__ import annotations

from tidemill.strategy.candidates import Candidates, CurateContext, CurateNeeds, Draw, Judgements, Picks, Target
from tidemill.strategy.curate_drawn import Disagreement, FeedbackDriven, Stratified
from tidemill.strategy.curate_errors import ExpectedError
from tidemill.strategy.curate_near import Diverse, Novel, Representative, Similar
from tidemill.strategy.curate_projected import Projected
from tidemill.strategy.curate_uncertain import Uncertain
from tidemill.strategy.curating import Curate, Mix, Random

__all__ = [
    "Candidates",
    "Curate",
    "CurateContext",
    "CurateNeeds",
    "Disagreement",
    "Diverse",
    "Draw",
    "ExpectedError",
    "FeedbackDriven",
    "Judgements",
    "Mix",
    "Novel",
    "Picks",
    "Projected",
    "Random",
    "Representative",
    "Similar",
    "Stratified",
    "Target",
    "Uncertain",
]
