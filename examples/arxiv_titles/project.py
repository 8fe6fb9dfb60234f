"""Titles of papers over twenty years: the subject of a title, while the field moves and new subjects appear.

`tidemill demo --stream arxiv_titles.parquet --project examples/arxiv_titles/project.py` replays the recorded stream
over HTTP. Twenty years are squeezed into a minute or two, hence durations in seconds.
"""

from sklearn.naive_bayes import ComplementNB

import tidemill as tm

SUBJECTS = ("CC", "CG", "CR", "CY", "DB", "DC", "GT", "HC", "IR", "LO", "NE", "NI", "PL", "RO", "SD", "SE", "SI", "SY")

project = tm.Project(
    name="arxiv-titles",
    inputs={"title": tm.Text(max_chars=1_000)},
    output=tm.Classes([f"cs.{subject}" for subject in SUBJECTS]),
    unit="paper",
    trainer=tm.trainers.Sklearn(ComplementNB(), transforms=[tm.transforms.HashedNgrams("title", bits=18)]),
    strategy=tm.Strategy(
        curate=tm.curate.Random(1.0),
        curate_every="1s",
        label=tm.label.Feedback(trust="truth", horizon="2s", daily_budget=None),
        trigger=tm.trigger.Degraded("accuracy", drop=0.02, by_cohort=False, trust="truth") | tm.trigger.Amount(1_500),
        dataset=tm.dataset.Everything(),
        offline=[tm.offline.NoWorse("accuracy"), tm.offline.BeatsBaseline(tm.offline.Majority())],
        online=tm.online.Gradual(
            (0.25, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="truth")], min_requests=100
        ),
    ),
)
