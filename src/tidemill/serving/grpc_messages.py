"""The messages of the Open Inference Protocol's gRPC service, built from a table of its fields.

The names, numbers and types are those of the protocol's public specification. They live in a pool of their own, so that
a client's generated code for the same messages may be loaded in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
_FILE = "tidemill/inference.proto"
_MAP = "map"

# Message: fields in the order of their numbers, each a type and a name; `*` repeats it, `map` is one of parameters.
_FIELDS: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, string* versions, string platform, TensorMetadata* inputs, "
    "TensorMetadata* outputs",
    "ModelMetadataResponse.TensorMetadata": "string name, string datatype, int64* shape",
    "InferParameter": "bool bool_param, int64 int64_param, string string_param, double double_param, "
    "uint64 uint64_param",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
    "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents",
    "ModelInferRequest": "string model_name, string model_version, string id, map parameters, "
    "InferInputTensor* inputs, InferRequestedOutputTensor* outputs, bytes* raw_input_contents",
    "ModelInferRequest.InferInputTensor": "string name, string datatype, int64* shape, map parameters, "
    "InferTensorContents contents",
    "ModelInferRequest.InferRequestedOutputTensor": "string name, map parameters",
    "ModelInferResponse": "string model_name, string model_version, string id, map parameters, "
    "InferOutputTensor* outputs, bytes* raw_output_contents",
    "ModelInferResponse.InferOutputTensor": "string name, string datatype, int64* shape, map parameters, "
    "InferTensorContents contents",
}
_ONE_OF = {"InferParameter": "parameter_choice"}
_Field = descriptor_pb2.FieldDescriptorProto


@cache
def messages() -> Mapping[str, Any]:
    """Return the message classes by name."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    names = [name for name in _FIELDS if "." not in name]
    found = {name: pool.FindMessageTypeByName(f"inference.{name}") for name in names}
    return {name: message_factory.GetMessageClass(kind) for name, kind in found.items()}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package="inference", syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path, fields in _FIELDS.items():
        parent, _, name = path.rpartition(".")
        message = (made[parent].nested_type if parent else file.message_type).add(name=name)
        made[path] = message
        if path in _ONE_OF:
            message.oneof_decl.add(name=_ONE_OF[path])
        for number, field in enumerate(filter(None, fields.split(", ")), 1):
            _add(message, path, number, field)
    return file


def _add(message: descriptor_pb2.DescriptorProto, path: str, number: int, declared: str) -> None:
    kind, name = declared.split()
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if path in _ONE_OF:
        field.oneof_index = 0
    if kind.endswith("*") or kind == _MAP:
        field.label = _Field.LABEL_REPEATED
    kind = kind.rstrip("*")
    if kind == _MAP:
        _add_entry(message, path, name)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{path}.{_entry(name)}"
    elif kind[0].isupper():
        inner = f"{path}.{kind}" if f"{path}.{kind}" in _FIELDS else kind
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{inner}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


def _add_entry(message: descriptor_pb2.DescriptorProto, path: str, name: str) -> None:
    """Declare the message behind a map from strings to parameters."""
    entry = message.nested_type.add(name=_entry(name))
    entry.options.map_entry = True
    _add(entry, f"{path}.{entry.name}", 1, "string key")
    _add(entry, f"{path}.{entry.name}", 2, "InferParameter value")


def _entry(name: str) -> str:
    return f"{name.capitalize()}Entry"
