"""What was served beside what the same version gives when it is asked again."""

from __future__ import annotations

from typing import Any

import numpy as np
from log_rows import Mill
from mail import everything, mail, row

from tidemill.monitor.skew import served_skew


class Links:
    """A version that judges by the number of links; one that was patched counts them otherwise."""

    def __init__(self, patch: float = 0.0) -> None:
        self.patch = patch

    def predict(self, columns: Any, *, finite: bool = True) -> Any:
        spam = 1 / (1 + np.exp(2 - columns["num_links"] - self.patch * (columns["num_links"] > 5)))
        return np.stack([1 - spam, spam], axis=1).astype(np.float32)


def written(mill: Mill) -> Any:
    rows = []
    for i in range(100):
        inputs = {"text": "hi", "num_links": float(i % 10), "logo": bytes(4)}
        scores = Links().predict({"num_links": np.array([float(i % 10)])})[0].tolist()
        rows.append(row(mill, i, i, inputs=inputs, scores=scores, answered_version=1 + (i >= 90)))
    mill.put(*rows, row(mill, 200, 300, inputs=None), row(mill, 201, 301, scores=None), project="mail")
    window = everything(mill)
    return mill.log.predictions("mail", after=None, until=window.until, schema=mail().schema)


def test_a_version_that_gives_what_it_served_has_no_skew(mill: Mill) -> None:
    found = served_skew(mail(), 1, Links(), written(mill))
    assert found is not None
    assert (found.num, found.share, found.examples) == (90, 0.0, ())
    assert found.high < 0.05
    assert found.effects["spam"].ks == 0.0


def test_rows_that_come_out_otherwise_are_counted_and_shown(mill: Mill) -> None:
    frame = written(mill)
    found = served_skew(mail(), 1, Links(patch=1.0), frame)
    assert found is not None
    assert found.share == 0.3
    assert found.low < 0.3 < found.high
    shown = mill.log.lookup("mail", found.examples, schema=mail().schema)
    assert set(shown["num_links"].to_list()) == {6.0}, "those that differ by most"


def test_without_rows_there_is_nothing_to_say(mill: Mill) -> None:
    assert served_skew(mail(), 7, Links(), written(mill)) is None
