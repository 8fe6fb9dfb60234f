"""A network that ONNX cannot hold goes out as a torch.export program, which needs none of its code and brings none."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import networks  # noqa: E402

from tidemill.errors import ModelError  # noqa: E402
from tidemill.model import TrainingData  # noqa: E402
from tidemill.runtime.artefact import MODEL_PT2, read_artefact  # noqa: E402
from tidemill.runtime.load import load  # noqa: E402
from tidemill.runtime.pt2 import open_program  # noqa: E402
from tidemill.training.export import export  # noqa: E402
from tidemill.training.torch_trainer import TorchModel  # noqa: E402
from tidemill.training.trainers import Torch  # noqa: E402


@pytest.fixture(scope="module")
def waves(digits: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, Path]:
    folder = tmp_path_factory.mktemp("waves")
    model = Torch(networks.Waves, epochs=3).train(
        digits, start_from=None, seed=1, workdir=folder, progress=lambda progress: None
    )
    exported = export(model, digits, folder / "artefact")  # no project file: its class cannot be found
    assert exported.format == "pt2"
    assert "torch does not export it" in exported.notes
    return model, folder / "artefact"


def test_it_is_stored_without_a_class_to_load(waves: tuple[TorchModel, Path]) -> None:
    _, folder = waves
    artefact = read_artefact(folder)
    assert (artefact.format, artefact.loader) == ("pt2", "")
    names = {path.name for path in folder.iterdir()}
    assert names == {"artefact.json", "model.pt2", "transforms.npz", "example.npz", "weights.safetensors"}


def test_a_worker_gives_torchs_scores_for_any_number_of_rows_and_reads_only_its_inputs(
    waves: tuple[TorchModel, Path], digits: TrainingData
) -> None:
    model, folder = waves
    loaded = load(folder)
    try:
        assert (loaded.is_python, loaded.inputs) == (True, ("image",))
        for rows in ([0], list(range(200))):
            columns = {name: column[rows] for name, column in digits.columns.items()}
            np.testing.assert_allclose(loaded.predict(columns), model.predict(columns), atol=1e-5)
    finally:
        loaded.close()


def test_the_process_that_asks_never_imports_torch(waves: tuple[TorchModel, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from tidemill.runtime.load import load;"
        "loaded = load(Path(sys.argv[1])); loaded.warm(3); loaded.close(); print('torch' in sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code, str(waves[1])], text=True)
    assert said == "False\n"


def test_a_later_version_starts_from_its_weights(
    waves: tuple[TorchModel, Path], digits: TrainingData, tmp_path: Path
) -> None:
    model = Torch(networks.Waves, epochs=1, lr=1e-9).train(
        digits, start_from=waves[1], seed=2, workdir=tmp_path, progress=lambda progress: None
    )
    np.testing.assert_allclose(model.predict(digits.columns), waves[0].predict(digits.columns), atol=1e-3)


def _rewritten(raw: bytes, change: Callable[[str, bytes], bytes], **more: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        root = old.namelist()[0].partition("/")[0]
        for name, data in more.items():
            new.writestr(f"{root}/{name}", data)
    return written.getvalue()


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("boom",)


def _pickled_inputs(name: str, data: bytes) -> bytes:
    if not name.endswith("sample_inputs/model.pt"):
        return data
    written = io.BytesIO()
    torch.save(_Bomb(), written, pickle_module=pickle)
    return written.getvalue()


def _pickled_weights(name: str, data: bytes) -> bytes:
    return data.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else data


def _expression(name: str, data: bytes) -> bytes:
    if not name.endswith("models/model.json"):
        return data
    program = json.loads(data)
    program["harm"] = {"expr_str": "eval(chr(49))"}
    return json.dumps(program).encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_pickled_inputs, "what cannot be read"),
        (_pickled_weights, "pickled weights"),
        (_expression, r"an expression 'eval\(chr\(49\)\)'"),
    ],
)
def test_a_program_that_would_run_code_of_its_own_is_refused(
    waves: tuple[TorchModel, Path], capfd: pytest.CaptureFixture[str], change: Callable[[str, bytes], bytes], named: str
) -> None:
    raw = (waves[1] / MODEL_PT2).read_bytes()
    open_program(_rewritten(raw, lambda name, data: data))
    with pytest.raises(ModelError, match=f"holds {named}"):
        open_program(_rewritten(raw, change))
    assert "boom" not in capfd.readouterr().out


def test_compiled_code_and_custom_objects_are_refused(waves: tuple[TorchModel, Path]) -> None:
    raw = (waves[1] / MODEL_PT2).read_bytes()
    for part in ("data/aotinductor/model/model.so", "data/constants/custom_obj_0", "models/other.json"):
        with pytest.raises(ModelError, match=f"holds a part '.*{part}'"):
            open_program(_rewritten(raw, lambda name, data: data, **{part: b""}))
