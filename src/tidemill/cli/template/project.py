"""Handwritten digits that keep being read well when the app that sends them changes."""

from sklearn.neural_network import MLPClassifier

import tidemill as tm

project = tm.Project(
    name="digits",
    inputs={"image": tm.Image((8, 8)), "app": tm.Category(tag=True)},
    output=tm.Classes([str(digit) for digit in range(10)]),
    unit="user",
    trainer=tm.trainers.Sklearn(MLPClassifier((128,), max_iter=300)),
    metrics=[tm.metrics.Accuracy()],
    cohorts={"old_app": "app = 'v1'", "new_app": "app = 'v2'"},
    strategy=tm.Strategy(
        log=tm.log.Everything(),
        curate=tm.curate.Uncertain(0.3) + tm.curate.FeedbackDriven(0.4) + tm.curate.Random(0.3),
        curate_every="1h",
        label=tm.label.Queue(daily_budget=200) | tm.label.Feedback(trust="crowd", horizon="2d"),
        trigger=(tm.trigger.Degraded("accuracy", drop=0.05) & tm.trigger.Amount(300)).at_most("7d"),
        dataset=tm.dataset.Window("90d") + tm.dataset.Replay(1_000),
        offline=[
            tm.offline.NoWorse("accuracy", by="cohort"),
            tm.offline.BeatsBaseline(tm.offline.Majority()),
            tm.offline.Latency(p99_ms=50),
        ],
        online=tm.online.Shadow(requests=1_000)
        >> tm.online.Gradual(
            (0.05, 0.25, 0.5, 1.0),
            guards=[tm.guard.Errors(), tm.guard.Latency(), tm.guard.NoWorse("accuracy", trust="crowd")],
        ),
    ),
)
