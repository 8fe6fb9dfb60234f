"""The digits project with days squeezed into seconds, so that a whole loop can be watched."""

import dataclasses

import tidemill as tm
from tidemill.cli.template.project import project as slow

project = dataclasses.replace(
    slow,
    strategy=dataclasses.replace(
        slow.strategy,
        curate_every="1s",
        label=tm.label.Queue(daily_budget=6_000, spread="180s") | tm.label.Feedback(trust="crowd", horizon="3s"),
        trigger=(tm.trigger.Degraded("accuracy", drop=0.05) & tm.trigger.Amount(700)).at_most("10m"),
        dataset=tm.dataset.Window("25s") + tm.dataset.Replay(500),
        online=tm.online.Shadow(requests=400)
        >> tm.online.Gradual(
            (0.05, 0.25, 0.5, 1.0),
            guards=[tm.guard.Errors(), tm.guard.Latency(), tm.guard.NoWorse("accuracy", trust="crowd")],
            min_requests=200,
        ),
    ),
)
