"""What the Open Inference Protocol (v2) says about a model: its inputs and outputs as named tensors."""

from __future__ import annotations

from typing import Any

from tidemill.schema import Image, Number, Schema, Tensor


def model_metadata(name: str, schema: Schema, versions: list[int]) -> dict[str, Any]:
    """Return the reply to `GET /v2/models/NAME`; -1 stands for the size of the batch."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": "tidemill",
        "inputs": [_tensor(input_name, kind) for input_name, kind in schema.inputs.items()],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, schema.output.num_scores]}],
    }


def _tensor(name: str, kind: object) -> dict[str, Any]:
    if isinstance(kind, Number):
        return {"name": name, "datatype": "FP64", "shape": [-1]}
    if isinstance(kind, Image):
        return {"name": name, "datatype": "UINT8", "shape": [-1, *kind.shape]}
    if isinstance(kind, Tensor):
        return {"name": name, "datatype": "FP32", "shape": [-1, *kind.shape]}
    return {"name": name, "datatype": "BYTES", "shape": [-1]}  # text
