"""An ONNX model in this process, on whatever device ONNX Runtime has for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from tidemill.errors import ModelError
from tidemill.runtime.artefact import MODEL_ONNX, read_params
from tidemill.runtime.batches import in_batches
from tidemill.schema import Array, Columns
from tidemill.transforms import Pipeline

Providers = Callable[[], Sequence[str]]
"""Tells what ONNX Runtime can compute on here, such as `onnxruntime.get_available_providers`."""

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_MAX_LINE = 300

_logger = logging.getLogger(__name__)


class OnnxModel:
    """Transforms and an ONNX model in this process, on `threads` threads that never spin.

    Its session may be run by several threads at the same time: `copies` says how many are meant to, so that copies of a
    model share its weights.
    """

    is_python = False

    def __init__(
        self, folder: Path, pipeline: Pipeline, *, threads: int, copies: int = 1, providers: Providers | None = None
    ) -> None:
        self.copies = copies
        self._pipeline = pipeline
        self._params = read_params(folder)
        self._session = _session(folder / MODEL_ONNX, threads, providers or onnxruntime.get_available_providers)
        self._names = [i.name for i in self._session.get_inputs()]

    @property
    def device(self) -> str:
        """What it is computed on: `cuda` or `cpu`."""
        return "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"

    def scores(self, columns: Columns, *, batch_rows: int | None = None) -> Any:
        """Transform all rows and predict them, `batch_rows` at a time."""
        features = self._pipeline.apply(columns, self._params)
        return in_batches(self._run, {name: features[name] for name in self._names}, batch_rows)

    def _run(self, given: Mapping[str, Array]) -> Any:
        return self._session.run(["scores"], given)[0]

    def close(self) -> None:
        """Nothing to end; the session goes with the object."""


def chosen_providers(available: Sequence[str]) -> list[str | tuple[str, dict[str, str]]]:
    """Return what ONNX Runtime shall compute on, best first: CUDA where there is one, and the CPU for what is left.

    TensorFloat-32 is off: its scores are not those that the version was tested with.
    """
    cuda: list[str | tuple[str, dict[str, str]]] = [(_CUDA, {"use_tf32": "0"})] if _CUDA in available else []
    return [*cuda, _CPU]


def _session(path: Path, threads: int, providers: Providers) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and told once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle gateway uses no CPU
    try:
        raw = path.read_bytes()
        external = _uses_external_data(onnx.load_model_from_string(raw))
    except Exception as error:  # protobuf and ONNX Runtime have no common base
        raise ModelError(f"{path.name} does not load: {line(error)}", "train the version again") from error
    if external:
        raise ModelError(f"{path.name} keeps data outside its file, which is never loaded.", "export it in one file")
    chosen = chosen_providers(providers())
    if chosen != [_CPU]:
        session = _on_device(raw, options, chosen)
        if session is not None:
            return session
    try:
        return onnxruntime.InferenceSession(raw, options, providers=[_CPU], enable_fallback=0)
    except Exception as error:
        raise ModelError(f"{path.name} does not load: {line(error)}", "train the version again") from error


def _on_device(raw: bytes, options: Any, chosen: Sequence[str | tuple[str, dict[str, str]]]) -> Any | None:
    """Return a session on CUDA, None where ONNX Runtime has it and yet cannot use it, which it would not say itself."""
    why = "see that its CUDA and cuDNN are installed, and that this process may use the device"
    try:
        session = onnxruntime.InferenceSession(raw, options, providers=chosen, enable_fallback=0)
        if session.get_providers()[0] == _CUDA:
            session.enable_fallback()  # a device that fails later: go on without it
            return session
    except Exception as error:  # no memory left on the device, say
        why = line(error)
    _logger.warning("ONNX Runtime has CUDA and cannot use it: the model runs on the CPU; %s", why)
    return None


def _uses_external_data(message: Any) -> bool:
    """Tell whether any tensor anywhere in a model (initialisers, attributes, subgraphs, functions) lies outside it."""
    if isinstance(message, onnx.TensorProto) and (
        message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
    ):
        return True
    for spec, value in message.ListFields():
        if spec.message_type is None:
            continue
        if any(_uses_external_data(child) for child in ([value] if hasattr(value, "ListFields") else value)):
            return True
    return False


def line(error: BaseException) -> str:
    """Return what an error says, as one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_LINE else text[: _MAX_LINE - 3] + "..."
