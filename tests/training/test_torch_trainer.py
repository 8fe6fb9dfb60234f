"""A network trains the same from the same seed, goes out as ONNX, and goes on from an earlier version's weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import networks  # noqa: E402

from tidemill.errors import ProjectError, TrainingError  # noqa: E402
from tidemill.runtime.artefact import read_artefact  # noqa: E402
from tidemill.runtime.load import load  # noqa: E402
from tidemill.training.export import export  # noqa: E402
from tidemill.training.torch_trainer import TorchModel  # noqa: E402
from tidemill.training.trainers import Torch  # noqa: E402
from tidemill.transforms import Flatten, HashedNgrams, ScaleImage, Standardise  # noqa: E402


def trained(trainer, data, tmp_path, *, seed=1, start_from=None, reports=None):
    report = (lambda p: None) if reports is None else reports.append
    return trainer.train(data, start_from=start_from, seed=seed, workdir=tmp_path, progress=report)


def accuracy(scores, data):
    return float((scores.argmax(axis=1) == data.targets).mean())


@pytest.fixture(scope="module")
def first(digits, tmp_path_factory):
    """A network and its artefact, a version to start from."""
    folder = tmp_path_factory.mktemp("first")
    model = trained(Torch(networks.Net, epochs=30, lr=3e-3), digits, folder)
    return model, export(model, digits, folder / "artefact"), folder / "artefact"


@pytest.fixture(scope="module")
def priced(prices, tmp_path_factory):
    """The same over values."""
    folder = tmp_path_factory.mktemp("priced")
    model = trained(Torch(networks.Price, epochs=60, lr=1e-2), prices, folder)
    return model, export(model, prices, folder / "artefact"), folder / "artefact"


def served_alike(model, folder, data):
    """One row and many give torch's scores."""
    loaded = load(folder)
    for rows in ([0], list(range(300))):
        columns = {name: column[rows] for name, column in data.columns.items()}
        np.testing.assert_allclose(loaded.predict(columns), model.predict(columns), atol=1e-4)
    return loaded.predict(data.columns)


def test_a_network_is_served_as_one_onnx_file(first, digits):
    """Scores are probabilities, equal to torch's, for any batch size."""
    model, exported, folder = first
    assert (exported.format, exported.notes) == ("onnx", "")
    names = {path.name for path in folder.iterdir()}
    assert names == {"artefact.json", "model.onnx", "transforms.npz", "example.npz", "weights.safetensors"}
    scores = served_alike(model, folder, digits)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert accuracy(scores, digits) > 0.9


CASES = {
    "cnn": (Torch(networks.Cnn, [ScaleImage("image", flatten=False)], epochs=4, lr=1e-2), "digits"),
    "words": (Torch(networks.Words, [HashedNgrams("text", bits=10), Standardise("age")], epochs=15, lr=2e-2), "titles"),
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_and_words_reach_a_network_as_they_are(case, request, tmp_path):
    """A convolution sees the picture; word vectors see the ids, of any number of words."""
    trainer, rows = CASES[case]
    data, reports = request.getfixturevalue(rows), []
    model = trained(trainer, data, tmp_path, reports=reports)
    assert export(model, data, tmp_path / "artefact").format == "onnx"
    assert accuracy(served_alike(model, tmp_path / "artefact", data), data) > 0.9
    assert reports[-1].fraction == 1
    assert reports[-1].numbers["loss"] < reports[0].numbers["loss"]


def test_values_are_learnt_by_squared_error(priced, prices):
    model, exported, folder = priced
    assert exported.format == "onnx"
    scores = served_alike(model, folder, prices)
    assert scores.shape == (300, 1)
    assert np.abs(scores[:, 0] - prices.targets).mean() < 0.2


def test_the_same_seed_gives_the_same_weights_in_another_process(digits, tmp_path):
    program = (
        "import sys; sys.path[:0] = ['tests/training'];"
        "import networks; from learnable import digit_rows; from pathlib import Path;"
        "from tidemill.training.trainers import Torch; data = digit_rows();"
        "m = Torch(networks.Net, epochs=1);"
        "m = m.train(data, start_from=None, seed=5, workdir=Path('.'), progress=lambda p: None);"
        "sys.stdout.buffer.write(m.predict(data.columns).tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    here = [trained(Torch(networks.Net, epochs=1), digits, tmp_path, seed=s).predict(digits.columns) for s in (5, 5, 6)]
    assert here[0].tobytes() == here[1].tobytes() == there
    assert here[2].tobytes() != there


def test_training_leaves_torch_as_it_was(digits, tmp_path):
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    trained(Torch(networks.Net, epochs=1), digits, tmp_path)
    assert torch.equal(torch.rand(3), wanted)
    assert not torch.are_deterministic_algorithms_enabled()


def test_fine_tuning_goes_on_from_the_weights(digits, first, tmp_path):
    """One epoch at a tiny rate hardly moves: the model starts where the parent ended, not afresh."""
    parent, _, folder = first
    tuned = trained(Torch(networks.Net, epochs=1, lr=1e-6), digits, tmp_path, start_from=folder, seed=9)
    np.testing.assert_allclose(tuned.predict(digits.columns), parent.predict(digits.columns), atol=0.02)
    afresh = trained(Torch(networks.Net, epochs=1, lr=1e-6), digits, tmp_path, seed=9)
    assert accuracy(afresh.predict(digits.columns), digits) < 0.5


def test_fine_tuning_keeps_what_the_parents_transforms_learnt(priced, prices, tmp_path):
    """Numbers centred anew would mean something else to the old weights."""
    parent, _, folder = priced
    larger = prices.take(np.flatnonzero(prices.columns["size"] > 150))
    tuned = trained(Torch(networks.Price, epochs=1, lr=1e-6), larger, tmp_path, start_from=folder)
    learnt = [{name: array.tolist() for name, array in m.fitted.params.items()} for m in (tuned, parent)]
    assert learnt[0] == learnt[1]
    np.testing.assert_allclose(tuned.predict(prices.columns), parent.predict(prices.columns), atol=0.05)


def test_a_version_that_does_not_fit_is_no_start(first, digits, tmp_path):
    folder = first[2]
    with pytest.raises(TrainingError, match=r"do not fit the module.*size mismatch"):
        trained(Torch(networks.Wider), digits, tmp_path, start_from=folder)
    with pytest.raises(TrainingError, match="other transforms"):
        trained(Torch(networks.Net, [ScaleImage("image"), ScaleImage("image")]), digits, tmp_path, start_from=folder)
    (tmp_path / "other").mkdir()
    for name in ("artefact.json", "transforms.npz"):
        (tmp_path / "other" / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(TrainingError, match="another trainer made it"):
        trained(Torch(networks.Net), digits, tmp_path, start_from=tmp_path / "other")


def test_a_loss_that_is_not_finite_names_step_and_cause(digits, tmp_path):
    with pytest.raises(
        TrainingError, match=r"the (loss|gradient) is (nan|inf) at step \d+, in epoch \d+.*lr"
    ) as caught:
        trained(Torch(networks.Explodes, lr=1.0), digits, tmp_path)
    assert "0.5" not in caught.value.message


def test_features_of_wild_size_are_named_as_the_cause(prices, tmp_path):
    wild = prices.take(np.arange(len(prices)))
    wild.columns["size"][:] = 1e30
    with pytest.raises(TrainingError, match=r"features reach 1e\+30.*Standardise"):
        trained(Torch(networks.Price, [Flatten("size", "rooms")]), wild, tmp_path)


def test_a_module_that_no_graph_can_hold_is_served_by_torch(digits, tmp_path):
    model = trained(Torch(networks.Branches, epochs=10), digits, tmp_path)
    exported = export(model, digits, tmp_path / "artefact", project_file="tests/training/networks.py")
    assert exported.format == "python"
    assert "torch does not export it" in exported.notes
    assert read_artefact(tmp_path / "artefact").loader == "tidemill.training.torch_trainer:TorchModel"
    again = TorchModel.load(tmp_path / "artefact")  # export has loaded it in a worker already
    np.testing.assert_array_equal(again.predict(digits.columns), model.predict(digits.columns))


def test_a_module_that_gives_or_takes_something_else_is_refused(digits, titles, tmp_path):
    with pytest.raises(TrainingError, match=r"\(2, 9\), not \(2, 10\)"):
        trained(Torch(networks.Short), digits, tmp_path)
    with pytest.raises(TrainingError, match=r"given image \(2, 1, 8, 8\), by name"):
        trained(Torch(networks.Net, [ScaleImage("image", flatten=False)]), digits, tmp_path)
    with pytest.raises(ProjectError, match=r"no nn\.Module"):
        trained(Torch(networks.no_module), digits, tmp_path)


@pytest.mark.parametrize(
    "params", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -1}, {"clip": 0}, {"device": "tpu"}]
)
def test_parameters_that_make_no_sense_are_refused(params):
    with pytest.raises(ProjectError, match=next(iter(params))):
        Torch(networks.Net, **params)


def test_a_module_without_a_name_is_refused():
    class Local(torch.nn.Module):
        pass

    for wrong in (lambda: networks.Net(), Local, networks.Net()):  # noqa: PLW0108
        with pytest.raises(ProjectError, match="found by its name"):
            Torch(wrong)


def test_equal_json_means_an_equal_trainer():
    assert Torch(networks.Net, epochs=2).to_json() == Torch(networks.Net, epochs=2).to_json()
    assert Torch(networks.Net, epochs=2).to_json() != Torch(networks.Net, epochs=3).to_json()
    assert Torch(networks.Net).to_json() != Torch(networks.Wider).to_json()
