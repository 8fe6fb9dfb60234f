"""Comments of a community, to be let through or held back: the project that docs/improving.md improves.

`comments.py` beside it makes the comments. What happens in weeks is squeezed into a minute, hence durations in seconds.
"""

from sklearn.linear_model import LogisticRegression

import tidemill as tm

project = tm.Project(
    name="moderation",
    inputs={
        "text": tm.Text(max_chars=10_000),
        "account_age_days": tm.Number(low=0, tag=True),
        "country": tm.Category(tag=True),
    },
    output=tm.Classes(["ok", "toxic"]),
    unit="user",
    trainer=tm.trainers.Sklearn(
        LogisticRegression(C=30.0),
        transforms=[tm.transforms.HashedNgrams("text", bits=14, words=(1, 1), weights="binary")],
    ),
    metrics=[tm.metrics.Accuracy(), tm.metrics.F1("toxic")],
    cohorts={"new_users": "account_age_days < 30"},
    alerts=[tm.alert.Falls("accuracy", drop=0.05, reference=200, quiet_for="30s")],
    strategy=tm.Strategy(
        curate_every="1s",
        label=tm.label.Queue(daily_budget=200) | tm.label.Feedback(trust="crowd", horizon="2s"),
        trigger=tm.trigger.Every("30d"),
        dataset=tm.dataset.Everything(),
        offline=[tm.offline.NoWorse("accuracy", by="cohort")],
        online=tm.online.Shadow(requests=40)
        >> tm.online.Gradual((0.5, 1.0), guards=[tm.guard.Errors()], min_requests=40),
    ),
)
