from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dujiang.models.serving.errors import BadRequest
from dujiang.models.serving.protocol import InferRequest, Signature, TensorSpec, decode_request, encode_response
from dujiang.models.serving.tensors import DATATYPES, from_binary, from_json, to_binary, to_json

NUMERIC = [name for name in DATATYPES if name != "BYTES"]


@st.composite
def tensors(draw: st.DrawFn, *, finite: bool = True) -> tuple[str, np.ndarray[Any, Any]]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    name = draw(st.sampled_from([*NUMERIC, "BYTES"]))
    dtype = DATATYPES[name].dtype
    if name == "BYTES":
        elements: Any = st.text(max_size=8)
    elif dtype.kind == "f":
        elements = st.floats(width=dtype.itemsize * 8, allow_nan=not finite, allow_infinity=not finite)  # type: ignore[arg-type]
    else:
        elements = hnp.from_dtype(dtype)
    return name, draw(hnp.arrays(dtype, shape, elements=elements))


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()


@given(tensors(), st.booleans())
def test_a_tensor_survives_json_flat_or_nested(case: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    name, tensor = case
    flat, unspeakable = to_json(tensor)
    assert unspeakable == 0
    written = orjson.loads(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY))
    if nested and tensor.ndim > 1 and tensor.size:
        written = orjson.loads(orjson.dumps(tensor.tolist())) if name != "FP16" else tensor.astype(float).tolist()
    back = from_json("x", DATATYPES[name], tensor.shape, written, booleans=name == "BOOL")
    assert same(back, tensor)


@given(tensors(finite=False), st.integers(0, 7))
def test_a_tensor_survives_the_binary_form_at_any_offset(case: tuple[str, np.ndarray[Any, Any]], offset: int) -> None:
    name, tensor = case
    blob = memoryview(bytes(offset) + to_binary(tensor))[offset:]
    back = from_binary("x", DATATYPES[name], tensor.shape, blob)
    assert back.flags.aligned
    assert back.shape == tensor.shape
    assert to_binary(back) == to_binary(tensor)


@pytest.mark.parametrize(
    ("datatype", "data", "says"),
    [
        ("FP32", [1.0, True], "value 1 is a boolean"),
        ("FP32", [1.0, "2"], "value 1 is a string"),
        ("FP32", [None, 1.0], "JSON has no NaN"),
        ("FP32", [1e39, 0.0], "value 0 is 1e+39"),
        ("FP32", [10**400, 0], "value 0 is 1000"),
        ("FP16", [0.0, 65520.0], "value 1 is 65520.0"),
        ("FP64", [{}, 0], "value 0 is an object"),
        ("INT8", [1, 128], "value 1 is 128"),
        ("UINT8", [-1, 0], "value 0 is -1"),
        ("INT64", [0, 2**63], "value 1 is 9223372036854775808"),
        ("UINT64", [0, -1], "value 1 is -1"),
        ("INT32", [1.0, 2], "value 0 is 1.0"),
        ("INT32", [1, True], "value 1 is a boolean"),
        ("BOOL", [True, 1], "value 1 is 1"),
        ("BYTES", ["a", 1], "value 1 is 1"),
        ("FP32", [1.0], "1 values where shape [2] asks for 2"),
        ("FP32", [1.0, [2.0]], "value 1 is a list"),
        ("FP32", "12", "must be a list, not a string"),
        ("FP32", None, "must be a list, not null"),
    ],
)
def test_a_value_outside_the_datatype_is_named(datatype: str, data: object, says: str) -> None:
    with pytest.raises(BadRequest) as error:
        from_json("x", DATATYPES[datatype], [2], data, booleans=True)
    assert says in error.value.sentence
    assert 'Input "x"' in error.value.sentence


@pytest.mark.parametrize(
    "data", [[[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4], [5]], [[1, 2], 3, [4, 5]], [[[1, 2], [3, 4], [5, 6]]]]
)
def test_nesting_other_than_the_shape_is_refused(data: object) -> None:
    with pytest.raises(BadRequest, match="nested"):
        from_json("x", DATATYPES["FP32"], [3, 2], data, booleans=False)


def test_a_shape_allocates_nothing() -> None:
    with pytest.raises(BadRequest, match="asks for 1000000000000000000"):
        from_json("x", DATATYPES["FP32"], [10**9, 10**9], [1.0], booleans=False)


def test_what_json_cannot_spell_is_counted_in_an_answer() -> None:
    tensor = np.array([1.0, math.nan, math.inf], dtype=np.float32)
    assert to_json(tensor)[1] == 2


@pytest.mark.parametrize(
    "blob", [b"\x01", b"\xff\xff\xff\xffab", b"\x01\x00\x00\x00a", b"\x01\x00\x00\x00\xff" * 2, b"\x00" * 9]
)
def test_broken_binary_strings_are_refused(blob: bytes) -> None:
    with pytest.raises(BadRequest):
        from_binary("x", DATATYPES["BYTES"], [2], memoryview(blob))


SIGNATURE = Signature(
    (TensorSpec("x", DATATYPES["FP32"], ("n", 2)), TensorSpec("s", DATATYPES["BYTES"], ("n",))),
    (TensorSpec("y", DATATYPES["FP32"], ("n", 2)), TensorSpec("z", DATATYPES["BYTES"], ("n",))),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["x", "s", "y", "FP32", "BYTES", ""]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data",
                         "binary_data_size", "binary_data", "binary_data_output"]), inner, max_size=6,
    ),
    max_leaves=25,
)  # fmt: skip


def spoiled(at: tuple[str, ...], value: object) -> Any:
    """Return a good request with one place overwritten."""
    request: Any = {
        "id": "7",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ],
        "outputs": [{"name": "y"}],
    }
    place = request
    for key in at[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[int(at[-1]) if isinstance(place, list) else at[-1]] = value
    return request


places = st.sampled_from(
    [("id",), ("inputs",), ("outputs",), ("parameters",), ("inputs", "0"), ("inputs", "0", "name"),
     ("inputs", "0", "datatype"), ("inputs", "0", "shape"), ("inputs", "0", "data"), ("inputs", "0", "parameters"),
     ("inputs", "1", "data"), ("inputs", "1", "shape"), ("outputs", "0"), ("outputs", "0", "parameters")]
)  # fmt: skip


@given(places, json_values)
def test_a_request_spoiled_anywhere_is_read_or_refused_in_words(at: tuple[str, ...], value: object) -> None:
    body = json.dumps(spoiled(at, value)).encode()
    try:
        request = decode_request(body, SIGNATURE)
    except BadRequest:
        return
    assert [tensor.ndim for tensor in request.inputs] == [2, 1]
    assert request.inputs[0].shape[0] == request.inputs[1].shape[0]
    assert set(request.outputs) <= {"y", "z"}


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_refused_in_words(body: bytes, json_length: int | None) -> None:
    with pytest.raises(BadRequest):
        decode_request(body, SIGNATURE, json_length=json_length)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BadRequest):
        decode_request(b'{"inputs":' + b"[" * 100_000, SIGNATURE)
    text = json.dumps(spoiled(("inputs", "0", "data"), "here")).replace('"here"', "[" * 900 + "]" * 900)
    with pytest.raises(BadRequest, match="nested"):
        decode_request(text.encode(), SIGNATURE)


def test_named_axes_must_agree() -> None:
    body = orjson.dumps(spoiled(("inputs", "1", "shape"), [2]))
    with pytest.raises(BadRequest, match='"n", is 2, elsewhere 1'):
        decode_request(body, SIGNATURE)


def test_an_answer_mixes_json_and_binary_outputs() -> None:
    request = InferRequest("9", (), ("y", "z"), frozenset({"y"}))
    y = np.array([[1, 2]], dtype=np.float32)
    body, json_length = encode_response("m", "1", request, [y, np.array(["é"], dtype=object)], SIGNATURE)
    assert json_length is not None
    head = orjson.loads(body[:json_length])
    assert head == {
        "model_name": "m",
        "model_version": "1",
        "id": "9",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
            {"name": "z", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
    }
    assert body[json_length:] == y.tobytes()
