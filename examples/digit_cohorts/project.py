"""Five handwriting collections one after another: abrupt changes of who writes, and what is forgotten.

`tidemill demo --stream digit_cohorts.parquet --project examples/digit_cohorts/project.py` replays the recorded stream
over HTTP. Its 26,511 rows are squeezed into a minute or two, hence durations in seconds.
"""

from sklearn.neural_network import MLPClassifier

import tidemill as tm

SOURCES = ("usps", "semeion", "optdigits", "mnist_sd3", "mnist_sd1")

project = tm.Project(
    name="digit-cohorts",
    inputs={"image": tm.Image((16, 16)), "source": tm.Category(tag=True)},
    output=tm.Classes([str(digit) for digit in range(10)]),
    unit="picture",
    cohorts={source: f"source = '{source}'" for source in SOURCES},
    trainer=tm.trainers.Sklearn(MLPClassifier((128,), max_iter=30)),
    strategy=tm.Strategy(
        curate=tm.curate.FeedbackDriven(0.3) + tm.curate.Random(0.7),
        curate_every="1s",
        label=tm.label.Feedback(trust="truth", horizon="2s", daily_budget=None),
        trigger=tm.trigger.Degraded("accuracy", drop=0.05, by_cohort=False, trust="truth") | tm.trigger.Amount(800),
        dataset=tm.dataset.Everything(),
        offline=[tm.offline.NoWorse("accuracy"), tm.offline.BeatsBaseline(tm.offline.Majority())],
        online=tm.online.Gradual(
            (0.25, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="truth")], min_requests=100
        ),
    ),
)
