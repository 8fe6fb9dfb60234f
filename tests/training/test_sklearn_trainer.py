"""Any scikit-learn estimator is trained and served: as ONNX where that gives its scores, else in a worker process."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import (
    ElasticNet,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier

from tidemill.errors import ModelError, ProjectError, TrainingError
from tidemill.model import TrainingData
from tidemill.runtime.artefact import read_artefact
from tidemill.runtime.load import load
from tidemill.training.export import export
from tidemill.training.sklearn_trainer import SklearnModel
from tidemill.training.trainers import Sklearn
from tidemill.transforms import Flatten, HashedNgrams, OneHot, ScaleImage, Standardise

TEXT = (HashedNgrams("text", bits=10),)
MIXED = (HashedNgrams("text", bits=10), Standardise("age"), OneHot("country"))


def trained(trainer: Sklearn, data: TrainingData, tmp_path, seed=7, reports=None):
    report = (lambda p: None) if reports is None else reports.append
    return trainer.train(data, start_from=None, seed=seed, workdir=tmp_path, progress=report)


def accuracy(scores, data):
    return float((scores.argmax(axis=1) == data.targets).mean())


DENSE = [
    MLPClassifier((32,), max_iter=60),
    LogisticRegression(max_iter=300),
    RidgeClassifier(),
    SGDClassifier(loss="log_loss"),
    LinearSVC(),
    GaussianNB(),
    MultinomialNB(),
    KNeighborsClassifier(3),
    DecisionTreeClassifier(),
    RandomForestClassifier(20),
    ExtraTreesClassifier(20),
    GradientBoostingClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=60)),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
]


@pytest.mark.parametrize("estimator", DENSE, ids=lambda e: type(e).__name__)
def test_a_dense_classifier_is_served_as_onnx(estimator, digits, tmp_path):
    """The graph gives the estimator's own scores, and reads nothing but the features."""
    model = trained(Sklearn(estimator), digits, tmp_path)
    exported = export(model, digits, tmp_path / "artefact")
    assert (exported.format, exported.notes) == ("onnx", "")
    loaded = load(tmp_path / "artefact")
    assert not loaded.is_python
    scores = loaded.predict(digits.columns)
    np.testing.assert_allclose(scores, model.predict(digits.columns), atol=1e-4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
    assert accuracy(scores, digits) > 0.75


SPARSE = [
    ComplementNB(),
    MultinomialNB(),
    LogisticRegression(),
    SGDClassifier(loss="log_loss"),
    SGDClassifier(loss="hinge"),
    LinearSVC(),
    RidgeClassifier(),
]


@pytest.mark.parametrize("estimator", SPARSE, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'loss', '')}")
@pytest.mark.parametrize("classes", ["two_titles", "titles"])
def test_a_linear_text_classifier_is_served_as_a_sparse_graph(estimator, classes, request, tmp_path):
    data = request.getfixturevalue(classes)
    model = trained(Sklearn(estimator, TEXT), data, tmp_path)
    exported = export(model, data, tmp_path / "artefact")
    assert (exported.format, exported.notes) == ("onnx", "")
    scores = load(tmp_path / "artefact").predict(data.columns)
    np.testing.assert_allclose(scores, model.predict(data.columns), atol=1e-4)
    assert accuracy(scores, data) > 0.9


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), LogisticRegression(solver="liblinear"), SGDClassifier(loss="log_loss")]
)
def test_text_and_numbers_meet_in_one_graph(estimator, two_titles, tmp_path):
    model = trained(Sklearn(estimator, MIXED), two_titles, tmp_path)
    assert export(model, two_titles, tmp_path / "artefact").format == "onnx"
    scores = load(tmp_path / "artefact").predict(two_titles.columns)
    np.testing.assert_allclose(scores, model.predict(two_titles.columns), atol=1e-4)


REGRESSORS = [
    Ridge(),
    ElasticNet(alpha=0.01),
    SGDRegressor(),
    LinearSVR(),
    MLPRegressor(hidden_layer_sizes=(16,), max_iter=200),
    RandomForestRegressor(20),
    HistGradientBoostingRegressor(max_iter=20),
]


@pytest.mark.parametrize("estimator", REGRESSORS, ids=lambda e: type(e).__name__)
def test_a_regressor_is_served_as_onnx(estimator, prices, tmp_path):
    model = trained(Sklearn(estimator), prices, tmp_path)
    assert export(model, prices, tmp_path / "artefact").format == "onnx"
    scores = load(tmp_path / "artefact").predict(prices.columns)
    assert scores.shape == (300, 1)
    np.testing.assert_allclose(scores, model.predict(prices.columns), rtol=1e-4, atol=1e-4)
    assert np.abs(scores[:, 0] - prices.targets).mean() < 0.5


def test_what_has_no_graph_is_served_in_a_worker_and_says_why(titles, tmp_path):
    estimator = make_pipeline(TfidfTransformer(), LogisticRegression())
    model = trained(Sklearn(estimator, TEXT), titles, tmp_path)
    exported = export(model, titles, tmp_path / "artefact")
    assert exported.format == "python"
    assert "the features are sparse" in exported.notes
    artefact = read_artefact(tmp_path / "artefact")
    assert artefact.notes == exported.notes
    assert artefact.loader == "tidemill.training.sklearn_trainer:SklearnModel"
    again = SklearnModel.load(tmp_path / "artefact")  # export has loaded it in a worker already
    np.testing.assert_array_equal(again.predict(titles.columns), model.predict(titles.columns))


@pytest.mark.parametrize(
    "estimator",
    [CalibratedClassifierCV(LinearSVC()), PoissonRegressor(), BernoulliNB()],
    ids=lambda e: type(e).__name__,
)
def test_an_unusual_estimator_is_stored_one_way_or_the_other(estimator, digits, prices, tmp_path):
    data = prices if isinstance(estimator, PoissonRegressor) else digits
    model = trained(Sklearn(estimator), data, tmp_path)
    assert export(model, data, tmp_path / "artefact").format in ("onnx", "python")
    assert len(list((tmp_path / "artefact").glob("*.onnx"))) + len(list((tmp_path / "artefact").glob("*.skops"))) == 1


def test_a_class_without_training_rows_gets_probability_zero_and_the_order_stays(digits, tmp_path):
    """Scores keep the schema's columns whatever the training rows show."""
    some = digits.take(np.flatnonzero(np.isin(digits.targets, [2, 5, 9])))
    for i, estimator in enumerate((RandomForestClassifier(10), LogisticRegression())):
        model = trained(Sklearn(estimator), some, tmp_path)
        export(model, some, tmp_path / str(i))
        scores = load(tmp_path / str(i)).predict(some.columns)
        assert scores.shape == (len(some), 10)
        assert (scores[:, [0, 1, 3, 4, 6, 7, 8]] == 0).all()
        assert accuracy(scores, some) > 0.9


def test_the_same_seed_gives_the_same_predictions_in_another_process(digits, tmp_path):
    """Every random state is set from the seed, also one deep in a pipeline."""
    program = (
        "import sys, numpy as np; sys.path[:0] = ['tests/training'];"
        "from test_sklearn_trainer import trained, Sklearn, make_pipeline, StandardScaler, MLPClassifier;"
        "from learnable import digit_rows; from pathlib import Path;"
        "data = digit_rows();"
        "e = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=5));"
        "s = trained(Sklearn(e), data, Path('.'), seed=int(sys.argv[1])).predict(data.columns);"
        "sys.stdout.buffer.write(s.tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", program, "3"], capture_output=True, check=True).stdout
    trainer = Sklearn(make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=5)))
    here = [trained(trainer, digits, tmp_path, seed=seed).predict(digits.columns) for seed in (3, 4)]
    assert there == here[0].tobytes()
    assert there != here[1].tobytes()


def test_weights_count_where_fit_takes_them(prices, tmp_path):
    doubled = TrainingData(
        schema=prices.schema,
        columns=prices.columns,
        targets=np.where(np.arange(300) < 150, prices.targets, 0.0),
        weights=np.where(np.arange(300) < 150, 2.0, 0.0),
        ids=prices.ids,
    )
    first_half = prices.take(np.arange(150))
    for estimator in (Ridge(), make_pipeline(StandardScaler(), Ridge(alpha=1e-9))):
        weighted = trained(Sklearn(estimator, (Flatten("size", "rooms"),)), doubled, tmp_path)
        alone = trained(Sklearn(estimator, (Flatten("size", "rooms"),)), first_half, tmp_path)
        np.testing.assert_allclose(weighted.predict(prices.columns), alone.predict(prices.columns), atol=0.05)


def test_ignored_weights_are_told(digits, tmp_path):
    weighted = TrainingData(
        schema=digits.schema,
        columns=digits.columns,
        targets=digits.targets,
        weights=np.linspace(0.5, 1.5, 400),
        ids=digits.ids,
    )
    reports = []
    model = trained(Sklearn(KNeighborsClassifier()), weighted, tmp_path, reports=reports)
    assert any("weights were ignored" in r.message for r in reports)
    assert "weights were ignored" in export(model, weighted, tmp_path / "artefact").notes


def test_warnings_of_the_estimator_are_told(digits, tmp_path):
    reports = []
    trained(Sklearn(MLPClassifier((4,), max_iter=1)), digits, tmp_path, reports=reports)
    assert any("ConvergenceWarning" in r.message for r in reports)


def test_an_estimator_that_raises_says_so(titles, tmp_path):
    with pytest.raises(TrainingError, match=r"HistGradientBoostingClassifier\.fit raised TypeError"):
        trained(Sklearn(HistGradientBoostingClassifier(), TEXT), titles, tmp_path)


@pytest.mark.parametrize("wrong", [LogisticRegression, "MLP", 3])
def test_what_is_no_estimator_is_refused(wrong):
    with pytest.raises(ProjectError, match="estimator"):
        Sklearn(wrong)


def test_a_regressor_for_classes_is_refused(digits, prices, tmp_path):
    with pytest.raises(ProjectError, match="not a classifier"):
        trained(Sklearn(Ridge()), digits, tmp_path)
    with pytest.raises(ProjectError, match="not a regressor"):
        trained(Sklearn(GaussianNB()), prices, tmp_path)


def test_pictures_that_are_not_flat_are_refused(digits, tmp_path):
    with pytest.raises(ProjectError, match="flatten=True"):
        trained(Sklearn(GaussianNB(), (ScaleImage("image", flatten=False),)), digits, tmp_path)


def test_equal_json_means_an_equal_trainer():
    def made(**params):
        return Sklearn(make_pipeline(StandardScaler(), MLPClassifier(**params)), TEXT).to_json()

    assert made(alpha=0.1) == made(alpha=0.1)
    assert made(alpha=0.1) != made(alpha=0.2)
    assert Sklearn(GaussianNB(), TEXT).to_json() != Sklearn(GaussianNB()).to_json()
    json.dumps(made(), allow_nan=False)


def test_a_type_that_was_not_saved_is_not_loaded(titles, tmp_path):
    """What skops does not trust by itself is listed when the model is saved; a file with more in it is refused."""
    model = trained(Sklearn(make_pipeline(TfidfTransformer(), LogisticRegression()), TEXT), titles, tmp_path)
    model.save(tmp_path)
    SklearnModel.load(tmp_path)
    with zipfile.ZipFile(tmp_path / "estimator.skops") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    tampered = files["schema.json"].replace(b"sklearn.feature_extraction.text", b"os", 1)
    with zipfile.ZipFile(tmp_path / "estimator.skops", "w") as archive:
        for name, body in {**files, "schema.json": tampered}.items():
            archive.writestr(name, body)
    with pytest.raises(ModelError, match="was not in it"):
        SklearnModel.load(tmp_path)
