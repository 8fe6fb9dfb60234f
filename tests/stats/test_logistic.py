"""The logistic regression behind the expected error."""

from __future__ import annotations

import numpy as np

from tidemill.stats.logistic import Logistic


def test_probabilities_are_those_that_drew_the_targets():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 3))
    true = 1 / (1 + np.exp(-(features @ [1.0, -0.5, 0.0] - 1.0)))
    targets = (rng.random(20_000) < true).astype(float)
    said = Logistic.fit(features, targets).probability(features)
    assert np.abs(said - true).max() < 0.05
    assert abs(said.mean() - targets.mean()) < 0.01


def test_features_that_say_nothing_give_everybody_about_the_same():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(400, 30)), (rng.random(400) < 0.2).astype(float)
    said = Logistic.fit(features, targets).probability(features)
    assert said.std() < 0.1
    assert abs(said.mean() - targets.mean()) < 0.05


def test_what_parts_the_rows_exactly_is_fitted_without_running_off():
    features = np.linspace(-1, 1, 100)[:, None]
    said = Logistic.fit(features, (features[:, 0] > 0).astype(float)).probability(features)
    assert np.isfinite(said).all()
    assert said[0] < 0.1
    assert said[-1] > 0.9
