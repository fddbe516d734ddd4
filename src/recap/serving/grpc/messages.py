"""The messages of Open Inference Protocol v2, built when the module is imported.

No generated code: it is bound to versions of protobuf, and every package that ships it registers `inference.*` in
the default pool, where a second one (tritonclient and open-inference-grpc, for example) cannot be imported any more.
The pool here is our own, so that clients may live in the same process.

Source: https://github.com/open-inference/open-inference-protocol, `specification/protocol/open_inference_grpc.proto`.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_VERSIONED = "string name 1, optional string version 2"
_TENSOR = "string name 1, string datatype 2, repeated int64 shape 3"
_CONTENTS = "map parameters 4, InferTensorContents contents 5"
_FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready 1",
    "ModelReadyRequest": _VERSIONED,
    "ModelReadyResponse": "bool ready 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name 1, string version 2, repeated string extensions 3",
    "ModelMetadataRequest": _VERSIONED,
    "ModelMetadataResponse": "string name 1, repeated string versions 2, string platform 3,"
    " repeated ModelMetadataResponse.TensorMetadata inputs 4,"
    " repeated ModelMetadataResponse.TensorMetadata outputs 5",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": "string model_name 1, optional string model_version 2, string id 3, map parameters 4,"
    " repeated ModelInferRequest.InferInputTensor inputs 5,"
    " repeated ModelInferRequest.InferRequestedOutputTensor outputs 6, repeated bytes raw_input_contents 7",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR}, {_CONTENTS}",
    "ModelInferRequest.InferRequestedOutputTensor": "string name 1, map parameters 2",
    "ModelInferResponse": "string model_name 1, string model_version 2, string id 3, map parameters 4,"
    " repeated ModelInferResponse.InferOutputTensor outputs 5, repeated bytes raw_output_contents 6",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR}, {_CONTENTS}",
    "InferParameter": "oneof bool bool_param 1, oneof int64 int64_param 2, oneof string string_param 3,"
    " oneof double double_param 4, oneof uint64 uint64_param 5",
    "InferTensorContents": "repeated bool bool_contents 1, repeated int32 int_contents 2,"
    " repeated int64 int64_contents 3, repeated uint32 uint_contents 4, repeated uint64 uint64_contents 5,"
    " repeated float fp32_contents 6, repeated double fp64_contents 7, repeated bytes bytes_contents 8",
}
"""Message → its fields: a type, a name and a number each. A `map` has string keys and InferParameter values."""


def _add_fields(message: descriptor_pb2.DescriptorProto, path: str, fields: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    for definition in filter(None, fields.split(", ")):
        *labels, kind, name, number = definition.split()
        field = message.field.add(name=name, number=int(number), label=kinds.LABEL_OPTIONAL)
        if kind == "map":  # on the wire: repeated entries of a key and a value
            entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
            entry.options.map_entry = True
            _add_fields(entry, "", "string key 1, InferParameter value 2")
            labels, kind = ["repeated"], f"{path}.{entry.name}"
        if hasattr(kinds, f"TYPE_{kind.upper()}"):
            field.type = getattr(kinds, f"TYPE_{kind.upper()}")
        else:
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
        if "repeated" in labels:
            field.label = kinds.LABEL_REPEATED
        elif "oneof" in labels:
            if not message.oneof_decl:
                message.oneof_decl.add(name="parameter_choice")
            field.oneof_index = 0
        elif "optional" in labels:  # proto3: an optional field is a oneof of its own
            field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")


def _build() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path, fields in sorted(_FIELDS.items()):  # a message before those nested in it
        outer, _, name = path.rpartition(".")
        messages[path] = messages[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        _add_fields(messages[path], path, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _build()


def message_class(name: str) -> Any:
    """The class of a message, such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
