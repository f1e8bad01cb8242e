"""Small ONNX models made on the spot, each there for one behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto], weights: Sequence[onnx.TensorProto] = (),
) -> Path:  # fmt: skip
    """Write a model of these nodes."""
    graph = helper.make_graph(list(nodes), "net", list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def value(name: str, kind: int, *shape: int | str | None) -> onnx.ValueInfoProto:
    """Return the declaration of an input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def mlp(path: Path, *, sizes: Sequence[int] = (4, 16, 3), seed: int = 0, batch: int | str = "n") -> Path:
    """x FP32 [batch, first] -> y FP32 [batch, last], rows independent."""
    rng = np.random.default_rng(seed)
    nodes, weights, here = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights.append(numpy_helper.from_array(rng.standard_normal((fan_in, fan_out)).astype(np.float32), f"w{layer}"))
        last = layer == len(sizes) - 2
        nodes.append(helper.make_node("MatMul", [here, f"w{layer}"], ["y" if last else f"m{layer}"]))
        if not last:
            nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
            here = f"t{layer}"
    return save(
        path, nodes, [value("x", TensorProto.FLOAT, batch, sizes[0])],
        [value("y", TensorProto.FLOAT, batch, sizes[-1])], weights,
    )  # fmt: skip


def two_in_two_out(path: Path) -> Path:
    """a, b FP32 [n, 2] -> sum, product."""
    floats = TensorProto.FLOAT
    return save(
        path, [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        [value("a", floats, "n", 2), value("b", floats, "n", 2)],
        [value("sum", floats, "n", 2), value("product", floats, "n", 2)],
    )  # fmt: skip


def identity(path: Path, kind: int, *shape: int | str | None) -> Path:
    """x of any datatype -> y, the same."""
    return save(
        path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, *shape)], [value("y", kind, *shape)]
    )


def lookup(path: Path) -> Path:
    """i INT64 [n] -> y FP32 [n], the i-th of ten numbers; an index beyond them fails inside the model."""
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")
    return save(
        path, [helper.make_node("Gather", ["table", "i"], ["y"])], [value("i", TensorProto.INT64, "n")],
        [value("y", TensorProto.FLOAT, "n")], [table],
    )  # fmt: skip


def mixes_rows(path: Path) -> Path:
    """x FP32 [n, 2] -> y FP32 [n, 2], a softmax over the batch: its rows must never be mixed with others'."""
    return save(
        path, [helper.make_node("Softmax", ["x"], ["y"], axis=0)], [value("x", TensorProto.FLOAT, "n", 2)],
        [value("y", TensorProto.FLOAT, "n", 2)],
    )  # fmt: skip


def logarithm(path: Path) -> Path:
    """x FP32 [n] -> y FP32 [n], log of it: NaN and infinities where x is not positive."""
    return save(
        path, [helper.make_node("Log", ["x"], ["y"])], [value("x", TensorProto.FLOAT, "n")],
        [value("y", TensorProto.FLOAT, "n")],
    )  # fmt: skip


def spins(path: Path) -> Path:
    """turns INT64 [] -> y FP32 [1]: multiplies a 256x256 matrix so often, about 0.2 ms each; as slow as asked."""
    floats = TensorProto.FLOAT
    square = numpy_helper.from_array(np.eye(256, dtype=np.float32), "square")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "square"], ["next"]),
            helper.make_node("Identity", ["go"], ["going"]),
        ],
        "body",
        [value("turn", TensorProto.INT64), value("go", TensorProto.BOOL), value("state", floats, 256, 256)],
        [value("going", TensorProto.BOOL), value("next", floats, 256, 256)],
    )
    first = numpy_helper.from_array(np.array([0], dtype=np.int64), "first")
    yes = numpy_helper.from_array(np.array(True), "yes")
    return save(
        path,
        [
            helper.make_node("Loop", ["turns", "yes", "square"], ["end"], body=body),
            helper.make_node("Gather", ["end", "first"], ["row"]),
            helper.make_node("ReduceSum", ["row"], ["total"], keepdims=0),
            helper.make_node("Reshape", ["total", "one"], ["y"]),
        ],
        [value("turns", TensorProto.INT64)],
        [value("y", floats, 1)],
        [square, first, yes, numpy_helper.from_array(np.array([1], dtype=np.int64), "one")],
    )
