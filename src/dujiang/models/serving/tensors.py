"""Tensors of the Open Inference Protocol, between JSON or bytes and NumPy, with no silent conversion.

Decides what a legal value of each datatype is: a JSON boolean is not a number, 1.5 is not an integer, 300 is not a
UINT8 and 1e39 is not an FP32. Leaves to `protocol` which tensors a request holds.
Source: KServe Open Inference Protocol V2, "Tensor Data Types", and its binary tensor data extension.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dujiang.models.serving.errors import BadRequest

type_name = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", float: "a number",
             int: "an integer", type(None): "null"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol."""

    name: str
    dtype: np.dtype[Any]
    """In memory; `object` holding `str` for BYTES, as ONNX Runtime wants string tensors."""
    typecode: str
    """Of `array.array`, which refuses what does not fit; empty for BOOL and BYTES."""
    expects: str


DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        Datatype("BOOL", np.dtype(np.bool_), "", "true or false"),
        Datatype("UINT8", np.dtype(np.uint8), "B", "integers from 0 to 255"),
        Datatype("UINT16", np.dtype(np.uint16), "H", "integers from 0 to 65535"),
        Datatype("UINT32", np.dtype(np.uint32), "I", "integers from 0 to 2^32-1"),
        Datatype("UINT64", np.dtype(np.uint64), "Q", "integers from 0 to 2^64-1"),
        Datatype("INT8", np.dtype(np.int8), "b", "integers from -128 to 127"),
        Datatype("INT16", np.dtype(np.int16), "h", "integers from -32768 to 32767"),
        Datatype("INT32", np.dtype(np.int32), "i", "integers from -2^31 to 2^31-1"),
        Datatype("INT64", np.dtype(np.int64), "q", "integers from -2^63 to 2^63-1"),
        Datatype("FP16", np.dtype(np.float16), "d", "numbers up to 65504 in size"),
        Datatype("FP32", np.dtype(np.float32), "d", "numbers up to 3.4e38 in size"),
        Datatype("FP64", np.dtype(np.float64), "d", "numbers"),
        Datatype("BYTES", np.dtype(object), "", "strings"),
    )
}

ONNX_DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's words; what is missing here (bfloat16, float8, sequences, maps) has no NumPy form to send."""


def from_json(name: str, datatype: Datatype, shape: Sequence[int], data: object, *, booleans: bool) -> NDArray[Any]:
    """Return the tensor that `data` (flat in row-major order, or nested as `shape`) spells.

    Args:
        name: of the input, for the error.
        shape: non-negative sizes; nothing is allocated for them, the data must be there.
        booleans: whether the JSON text can hold a boolean at all; False skips a scan of every value.

    Raises:
        BadRequest: the data is no list, has another count or nesting, or holds a value outside the datatype.
    """
    if not isinstance(data, list):
        raise BadRequest(f'Input "{name}": "data" must be a list, not {_kind(data)}.')
    flat = _flatten(name, shape, data) if data and type(data[0]) is list else data
    count = math.prod(shape)
    if len(flat) != count:
        raise BadRequest(f'Input "{name}": "data" holds {len(flat)} values where shape {list(shape)} asks for {count}.')
    if not datatype.typecode:
        return _plain(name, datatype, shape, flat)
    if booleans and bool in map(type, flat):
        raise _misfit(name, datatype, flat)
    try:
        packed = array(datatype.typecode, flat)
    except (TypeError, OverflowError) as error:
        raise _misfit(name, datatype, flat) from error
    with np.errstate(over="ignore"):
        tensor = np.array(packed, dtype=datatype.dtype)
    if (
        datatype.typecode == "d" and not np.isfinite(tensor).all()
    ):  # JSON cannot spell an infinity, so the value was too large for the type
        raise _misfit(name, datatype, flat)
    return tensor.reshape(shape)


def from_binary(name: str, datatype: Datatype, shape: Sequence[int], blob: memoryview) -> NDArray[Any]:
    """Return the tensor of little-endian values, or of strings each behind its 4-byte length.

    Raises:
        BadRequest: the blob is longer or shorter than the shape says, or a string is not UTF-8.
    """
    count = math.prod(shape)
    if datatype.name == "BYTES":
        return _object_array(_strings(name, count, blob), shape)
    if len(blob) != count * datatype.dtype.itemsize:
        raise BadRequest(
            f'Input "{name}": {len(blob)} bytes of binary data where {datatype.name} of shape {list(shape)} '
            f"takes {count * datatype.dtype.itemsize}."
        )
    tensor = np.frombuffer(blob, dtype=datatype.dtype.newbyteorder("<")).reshape(shape)
    if datatype.name == "BOOL" and tensor.size and blob.tobytes().strip(b"\x00\x01"):
        raise BadRequest(f'Input "{name}": a binary BOOL is one byte, 0 or 1.')
    # A blob begins wherever the one before ended; ONNX Runtime reads through a typed pointer and wants it aligned.
    return tensor if tensor.flags.aligned else tensor.copy()


def to_json(tensor: NDArray[Any]) -> tuple[Any, int]:
    """Return what orjson writes as the flat `data` of a tensor, and how many values JSON cannot spell.

    NaN and the infinities become null; the binary form keeps them.
    """
    flat = tensor.reshape(-1)
    if tensor.dtype == object:
        return [item if isinstance(item, str) else str(item) for item in flat], 0
    if tensor.dtype.kind == "f":
        finite = np.isfinite(flat)
        return flat, 0 if finite.all() else int(flat.size - np.count_nonzero(finite))
    return flat, 0


def to_binary(tensor: NDArray[Any]) -> bytes:
    """Return the protocol's binary form of a tensor."""
    if tensor.dtype != object:
        return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    encoded = [str(item).encode() for item in tensor.reshape(-1)]
    return b"".join(chain.from_iterable((len(item).to_bytes(4, "little"), item) for item in encoded))


def _flatten(name: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    level: list[Any] = [data]
    for depth, size in enumerate(shape):
        for item in level:
            if type(item) is not list or len(item) != size:
                found = f"{len(item)} items" if type(item) is list else _kind(item)
                raise BadRequest(
                    f'Input "{name}": nested "data" does not follow shape {list(shape)}: '
                    f"at depth {depth} it has {found} where {size} are needed."
                )
        level = list(chain.from_iterable(level))
    return level


def _plain(name: str, datatype: Datatype, shape: Sequence[int], flat: list[Any]) -> NDArray[Any]:
    wanted = bool if datatype.name == "BOOL" else str
    if not all(type(item) is wanted for item in flat):
        raise _misfit(name, datatype, flat)
    return np.array(flat, dtype=np.bool_).reshape(shape) if wanted is bool else _object_array(flat, shape)


def _object_array(items: Sequence[str], shape: Sequence[int]) -> NDArray[Any]:
    tensor = np.empty(len(items), dtype=object)
    tensor[:] = items
    return tensor.reshape(shape)


def _strings(name: str, count: int, blob: memoryview) -> list[str]:
    items: list[str] = []
    at = 0
    while at < len(blob) and len(items) < count:
        end = at + 4 + int.from_bytes(blob[at : at + 4], "little")
        if at + 4 > len(blob) or end > len(blob):
            raise BadRequest(f'Input "{name}": string {len(items)} runs past the end of its binary data.')
        try:
            items.append(str(blob[at + 4 : end], "utf-8"))
        except UnicodeDecodeError as error:
            raise BadRequest(
                f'Input "{name}": string {len(items)} is not UTF-8; a string tensor holds text.'
            ) from error
        at = end
    if len(items) != count or at != len(blob):
        raise BadRequest(
            f'Input "{name}": the binary data does not hold exactly the {count} strings its shape asks for.'
        )
    return items


def _misfit(name: str, datatype: Datatype, flat: Sequence[Any]) -> BadRequest:
    """Find the first value that the datatype cannot hold and say which it is."""
    for index, value in enumerate(flat):
        if not _fits(datatype, value):
            shown = repr(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _kind(value)
            hint = " JSON has no NaN: send the tensor in binary form." if value is None else ""
            return BadRequest(
                f'Input "{name}": value {index} is {shown[:80]}; {datatype.name} takes {datatype.expects}.{hint}'
            )
    raise AssertionError("every value fits, yet the conversion failed")


def _fits(datatype: Datatype, value: object) -> bool:
    if datatype.name == "BOOL":
        return type(value) is bool
    if datatype.name == "BYTES":
        return type(value) is str
    if datatype.typecode != "d":
        if type(value) is not int:
            return False
        limits = np.iinfo(datatype.dtype)
        return int(limits.min) <= value <= int(limits.max)
    if type(value) is not int and type(value) is not float:
        return False
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.array(float(value)).astype(datatype.dtype)))
    except OverflowError:  # an integer of hundreds of digits
        return False


def _kind(value: object) -> str:
    return type_name.get(type(value), type(value).__name__)
