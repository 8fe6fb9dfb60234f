"""The loop as a list. The order matters: facts first, then people's words, then what follows from them.

Standing steps are taken at every turn; of the cycle steps, the one the open cycle is in. Every step reads facts, asks
the strategy and writes its result in one fenced transaction: cut short anywhere, it is taken again with the same facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidemill.loop.adapt import adapt
from tidemill.loop.alerts import alerts
from tidemill.loop.batch import batch
from tidemill.loop.commands import commands
from tidemill.loop.curate import curate
from tidemill.loop.forget import forget
from tidemill.loop.form import form
from tidemill.loop.functions import functions
from tidemill.loop.label import label
from tidemill.loop.release import release
from tidemill.loop.retain import retain
from tidemill.loop.retire import retire
from tidemill.loop.suspects import recheck
from tidemill.loop.tell import tell
from tidemill.loop.test import test
from tidemill.loop.train import train
from tidemill.loop.watch import watch
from tidemill.loop.world import Turn
from tidemill.records import Cycle

STANDING: Mapping[str, Callable[[Turn], bool]] = {
    "commands": commands,
    "forget": forget,
    "curate": curate,
    "label": label,
    "functions": functions,
    "recheck": recheck,
    "watch": watch,
    "alerts": alerts,
    "tell": tell,
    "adapt": adapt,
    "batch": batch,
    "retain": retain,
    "retire": retire,
}

RESTS_WHILE_FOREIGN = ("curate", "functions", "recheck", "adapt")
"""What reads requests by the project's schema: it waits until that is in force, and then goes on where it was."""

CYCLE: Mapping[str, Callable[[Turn, Cycle], bool]] = {
    "form": form,
    "train": train,
    "test": test,
    "release": release,
}
