"""The Open Inference Protocol V2 over HTTP, as bytes in and bytes out: requests, responses, metadata.

Decides whether a request fits a model's signature and how an answer is written. Knows no model, queue or socket.
Source: KServe Open Inference Protocol V2 (REST), with the binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from numpy.typing import NDArray

from dujiang.kit.errors import did_you_mean
from dujiang.models.serving.errors import BadRequest
from dujiang.models.serving.tensors import DATATYPES, Datatype, from_binary, from_json, to_binary, to_json

JSON = b"application/json"
BINARY = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
"""With binary tensors: how many bytes at the front of the body are JSON. The tensors follow in their order."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output as the model declares it."""

    name: str
    datatype: Datatype
    shape: tuple[int | str | None, ...]
    """A number is fixed; a name or None is free, and axes of one name have one size."""

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's description, free axes as -1."""
        sizes = [size if isinstance(size, int) else -1 for size in self.shape]
        return {"name": self.name, "datatype": self.datatype.name, "shape": sizes}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def output(self, name: str) -> TensorSpec | None:
        """Return the output of that name."""
        return next((spec for spec in self.outputs if spec.name == name), None)


@dataclass(slots=True)
class InferRequest:
    """A request that fits its model's signature."""

    id: str | None
    inputs: tuple[NDArray[Any], ...]
    """In the signature's order."""
    outputs: tuple[str, ...]
    """Wanted, in the order they are to be answered."""
    binary: frozenset[str]
    """Those of them to be answered in binary form."""


def decode_request(body: bytes, signature: Signature, *, json_length: int | None = None) -> InferRequest:
    """Read a request and check it against the signature.

    Args:
        json_length: value of the `Inference-Header-Content-Length` header when there is one.

    Raises:
        BadRequest: with a sentence that names the first thing wrong.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {json_length}, yet the body has {len(body)} bytes.")
    text = body if json_length is None else body[:json_length]
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}. (JSON has no NaN or Infinity.)") from error
    if not isinstance(request, dict):
        raise BadRequest('The body must be a JSON object with "inputs".')
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest('"id" must be a string.')
    blobs = memoryview(body)[len(text) :]
    booleans = _may_hold_booleans(text)
    inputs = _inputs(request.get("inputs"), signature, blobs, booleans)
    wanted, binary = _outputs(request, signature)
    return InferRequest(identity, inputs, wanted, binary)


def encode_response(
    model: str, version: str, request: InferRequest, tensors: Sequence[NDArray[Any]], signature: Signature
) -> tuple[bytes, int | None]:
    """Write the answer.

    Args:
        tensors: the values of `request.outputs`, in that order.

    Returns:
        The body, and how long its JSON part is when binary tensors follow it.
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, tensor in zip(request.outputs, tensors, strict=True):
        spec = signature.output(name)
        assert spec is not None, name
        output: dict[str, Any] = {"name": name, "datatype": spec.datatype.name, "shape": tensor.shape}
        if name in request.binary:
            blobs.append(to_binary(tensor))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"], unspeakable = to_json(tensor)
            if unspeakable:
                output["parameters"] = {"non_finite": unspeakable}
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *blobs)), len(text)) if request.binary else (text, None)


def encode_error(sentence: str) -> bytes:
    """Write the protocol's error object."""
    # A name quoted from a request can hold half a surrogate pair (a percent-encoded path does), which is no UTF-8.
    return orjson.dumps({"error": sentence.encode("utf-8", "replace").decode()})


def _may_hold_booleans(text: bytes) -> bool:
    """Say whether any value of `data` can be true or false; never a wrong no for text written plainly.

    orjson yields a boolean only where the text says so, and a text of numbers after "data" has no letter u or s:
    looking for one byte takes a fiftieth of the time of asking each value for its type.
    """
    start = max(0, text.find(b'"data"') + 6)
    return (text.find(b"u", start) >= 0 or text.find(b"s", start) >= 0) and (b"true" in text or b"false" in text)


def _inputs(given: object, signature: Signature, blobs: memoryview, booleans: bool) -> tuple[NDArray[Any], ...]:
    if not isinstance(given, list) or not given:
        raise BadRequest('"inputs" must be a non-empty list of tensors.')
    tensors: dict[str, NDArray[Any]] = {}
    sizes: dict[str, int] = {}
    for item in given:
        spec = _spec(item, signature)
        if spec.name in tensors:
            raise BadRequest(f'Input "{spec.name}" is given twice.')
        shape = _shape(item.get("shape"), spec, sizes)
        size = _binary_size(item, spec.name)
        if size is None:
            if "data" not in item:
                raise BadRequest(f'Input "{spec.name}" has no "data".')
            tensors[spec.name] = from_json(spec.name, spec.datatype, shape, item["data"], booleans=booleans)
        elif size > len(blobs):
            raise BadRequest(f'Input "{spec.name}" announces {size} bytes of binary data; {len(blobs)} are left.')
        else:
            tensors[spec.name] = from_binary(spec.name, spec.datatype, shape, blobs[:size])
            blobs = blobs[size:]
    if len(blobs):
        raise BadRequest(f"{len(blobs)} bytes of binary data follow that no input announces.")
    missing = [spec.name for spec in signature.inputs if spec.name not in tensors]
    if missing:
        raise BadRequest(f"Missing input: {', '.join(missing)}. The model takes {_names(signature.inputs)}.")
    return tuple(tensors[spec.name] for spec in signature.inputs)


def _spec(item: object, signature: Signature) -> TensorSpec:
    if not isinstance(item, dict):
        raise BadRequest("Each input must be an object with name, datatype, shape and data.")
    name = item.get("name")
    if not isinstance(name, str):
        raise BadRequest('Each input needs a "name", which is a string.')
    for spec in signature.inputs:
        if spec.name == name:
            break
    else:
        hint = did_you_mean(name[:200], [spec.name for spec in signature.inputs])
        raise BadRequest(f'The model has no input "{name[:200]}". It takes {_names(signature.inputs)}.{hint}')
    if item.get("datatype") != spec.datatype.name:
        given = item.get("datatype")
        shown = f'"{given[:40]}"' if isinstance(given, str) else "missing" if given is None else "not a string"
        known = "" if not isinstance(given, str) or given in DATATYPES else f" (known: {', '.join(DATATYPES)})"
        raise BadRequest(f'Input "{name}": datatype is {shown}{known}; the model takes {spec.datatype.name}.')
    return spec


def _shape(given: object, spec: TensorSpec, sizes: dict[str, int]) -> list[int]:
    """Check a shape against the declared one; `sizes` carries the named axes of the request so far."""
    if not isinstance(given, list) or any(type(size) is not int or size < 0 for size in given):
        raise BadRequest(f'Input "{spec.name}": "shape" must be a list of integers, none negative.')
    declared = spec.metadata()["shape"] if len(given) != len(spec.shape) else None
    if declared is not None:
        raise BadRequest(
            f'Input "{spec.name}": shape {str(given)[:200]} has {len(given)} axes; '
            f"the model takes {len(declared)}: {declared} (-1 is free)."
        )
    for axis, (size, wanted) in enumerate(zip(given, spec.shape, strict=True)):
        if isinstance(wanted, str):
            if sizes.setdefault(wanted, size) != size:
                raise BadRequest(f'Input "{spec.name}": axis {axis}, "{wanted}", is {size}, elsewhere {sizes[wanted]}.')
        elif wanted is not None and size != wanted:
            raise BadRequest(
                f'Input "{spec.name}": axis {axis} of shape {given} must be {wanted}; '
                f"the model takes {spec.metadata()['shape']} (-1 is free)."
            )
    return given


def _binary_size(item: Mapping[str, Any], name: str) -> int | None:
    parameters = item.get("parameters")
    if not isinstance(parameters, dict):
        if parameters is not None:
            raise BadRequest(f'Input "{name}": "parameters" must be an object.')
        return None
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise BadRequest(f'Input "{name}": "binary_data_size" must be a non-negative integer.')
    if size is not None and "data" in item:
        raise BadRequest(f'Input "{name}" has both "data" and "binary_data_size".')
    return size


def _outputs(request: Mapping[str, Any], signature: Signature) -> tuple[tuple[str, ...], frozenset[str]]:
    parameters = request.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequest('"parameters" must be an object.')
    all_binary = (parameters or {}).get("binary_data_output") is True
    given = request.get("outputs")
    if given is None or given == []:
        names = tuple(spec.name for spec in signature.outputs)
        return names, frozenset(names if all_binary else ())
    if not isinstance(given, list):
        raise BadRequest('"outputs" must be a list.')
    wanted: dict[str, bool] = {}
    for item in given:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise BadRequest('Each of "outputs" must be an object with a "name".')
        if signature.output(name) is None:
            hint = did_you_mean(name[:200], [spec.name for spec in signature.outputs])
            raise BadRequest(f'The model has no output "{name[:200]}". It gives {_names(signature.outputs)}.{hint}')
        if name in wanted:
            raise BadRequest(f'Output "{name}" is asked for twice.')
        options = item.get("parameters")
        chosen = options.get("binary_data") if isinstance(options, dict) else None
        wanted[name] = chosen if isinstance(chosen, bool) else all_binary
    return tuple(wanted), frozenset(name for name, binary in wanted.items() if binary)


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f'"{spec.name}" {spec.datatype.name}{spec.metadata()["shape"]}' for spec in specs)
