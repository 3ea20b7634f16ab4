"""ONNX files of every opset from 7: each operator in the form of its time is read as onnxruntime runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.errors import NetworkError
from compress.networks.onnx_file import check_conversion, read_onnx

OPSETS = (7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 21)
H, W, C = 6, 8, 4
Parts = tuple[list[Any], dict[str, Any]]
"""Nodes from `f`, maps [1,C,H,W], to `g`, maps; and the constants they read."""


def node(kind: str, inputs: str, output: str = "g", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def moved(opset: int, since: int, kind: str, constants: dict[str, Any], **attributes: Any) -> Parts:
    """The constants are attributes before opset `since`, inputs then."""
    if opset < since:
        plain = {name: value.tolist() for name, value in constants.items()}
        return [node(kind, "f", **plain, **attributes)], {}
    return [node(kind, f"f {' '.join(constants)}", **attributes)], constants


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def statistics(shape: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name in ("gain", "bias", "mean", "variance")}


def batch_norm(opset: int) -> Parts:
    spatial = {"spatial": 1} if opset < 9 else {}
    return [node("BatchNormalization", "f gain bias mean variance", epsilon=1e-3, **spatial)], statistics((C,))


def batch_norm_per_cell(opset: int) -> Parts:
    if opset >= 9:
        return batch_norm(opset)
    return [node("BatchNormalization", "f gain bias mean variance", spatial=0)], statistics((C, H, W))


def transposed_and_norm(opset: int) -> Parts:
    weight = np.random.default_rng(2).standard_normal((C, C, 4, 4)).astype(np.float32)
    nodes, constants = batch_norm(opset)
    nodes[0].input[0] = "t"
    up = node("ConvTranspose", "f w", "t", kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1])
    return [up, *nodes], constants | {"w": weight}


def upsample(opset: int, mode: str) -> Parts:
    scales = floats(1, 1, 2, 3)
    if opset < 9:
        return [node("Upsample", "f", scales=scales.tolist(), mode=mode)], {}
    if opset < 10:
        return [node("Upsample", "f scales", mode=mode)], {"scales": scales}
    if opset < 11:
        return [node("Resize", "f scales", mode=mode)], {"scales": scales}
    roi = {"roi": floats()}
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [node("Resize", "f roi scales", mode=mode, **how)], roi | {"scales": scales}


def slices(opset: int) -> Parts:
    return moved(opset, 10, "Slice", {"starts": ints(1, 0), "ends": ints(4, -1), "axes": ints(1, 3)})


def clip(opset: int) -> Parts:
    if opset < 11:
        return [node("Clip", "f", min=-0.5, max=0.75)], {}
    return [node("Clip", "f min max")], {"min": np.float32(-0.5), "max": np.float32(0.75)}


def clip_above(opset: int) -> Parts:
    if opset < 11:
        return [node("Clip", "f", max=0.75)], {}
    return [helper.make_node("Clip", ["f", "", "max"], ["g"])], {"max": np.float32(0.75)}


def pad(opset: int, mode: str) -> Parts:
    pads = ints(0, 0, 1, 2, 0, 0, 2, 1)
    value = 0.5 if mode == "constant" else 0.0
    if opset < 11:
        return [node("Pad", "f", pads=pads.tolist(), mode=mode, value=value)], {}
    return [node("Pad", "f pads value", mode=mode)], {"pads": pads, "value": np.float32(value)}


def dropout(opset: int) -> Parts:
    if opset < 12:
        return [node("Dropout", "f", ratio=0.3)], {}
    return [node("Dropout", "f ratio")], {"ratio": np.float32(0.3)}


def reshaped(opset: int) -> Parts:
    shape = numpy_helper.from_array(ints(1, 2 * C, H // 2, W))
    return [helper.make_node("Constant", [], ["shape"], value=shape), node("Reshape", "f shape")], {}


def squeezed(opset: int) -> Parts:
    if opset < 13:
        return [node("Unsqueeze", "f", "u", axes=[1, 4]), node("Squeeze", "u", axes=[1, 4])], {}
    return [node("Unsqueeze", "f axes", "u"), node("Squeeze", "u axes")], {"axes": ints(1, 4)}


def squeezed_of_all(opset: int) -> Parts:
    """Without axes it drops all of size 1: the batch, here, which comes back."""
    unsqueeze = node("Unsqueeze", "s", axes=[0]) if opset < 13 else node("Unsqueeze", "s axes")
    return [node("Squeeze", "f", "s"), unsqueeze], {} if opset < 13 else {"axes": ints(0)}


def mean(opset: int) -> Parts:
    return moved(opset, 18, "ReduceMean", {"axes": ints(2, 3)}, keepdims=1)


def total(opset: int) -> Parts:
    return moved(opset, 13, "ReduceSum", {"axes": ints(1)}, keepdims=1)


def softmax(opset: int, axis: int | None) -> Parts:
    return [node("Softmax", "f", **({} if axis is None else {"axis": axis}))], {}


def split(opset: int) -> Parts:
    sizes = ints(1, 3)
    part = helper.make_node("Split", ["f"], ["a", "b"], axis=1)
    if opset < 13:
        part.attribute.append(helper.make_attribute("split", sizes.tolist()))
    else:
        part.input.append("sizes")
    return [part, node("Concat", "b a", axis=1)], {} if opset < 13 else {"sizes": sizes}


def pools(opset: int) -> Parts:
    one = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    average = node("AveragePool", "f", "b", count_include_pad=1, **one)
    return [node("MaxPool", "f", "a", **one), average, node("Add", "a b")], {}


def activations(opset: int) -> Parts:
    kinds = ("Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "LeakyRelu", "HardSigmoid")
    nodes = [node(kind, "f", kind) for kind in kinds]
    nodes += [node("PRelu", "f slope", "PRelu"), node("Concat", " ".join((*kinds, "PRelu")), axis=1)]
    return nodes, {"slope": np.full((C, 1, 1), 0.3, dtype=np.float32)}


CASES: dict[str, Callable[[int], Parts]] = {
    "BatchNormalization": batch_norm,
    "BatchNormalization per cell": batch_norm_per_cell,
    "ConvTranspose, BatchNormalization": transposed_and_norm,
    "nearest": lambda opset: upsample(opset, "nearest"),
    "linear": lambda opset: upsample(opset, "linear"),
    "Slice": slices,
    "Clip": clip,
    "Clip above": clip_above,
    "Pad": lambda opset: pad(opset, "constant"),
    "Pad reflected": lambda opset: pad(opset, "reflect"),
    "Pad by the edge": lambda opset: pad(opset, "edge"),
    "Dropout": dropout,
    "Reshape": reshaped,
    "Squeeze": squeezed,
    "Squeeze of all": squeezed_of_all,
    "ReduceMean": mean,
    "ReduceSum": total,
    "Softmax": lambda opset: softmax(opset, None),
    "Softmax of all": lambda opset: softmax(opset, 1),
    "Softmax of two": lambda opset: softmax(opset, 2),
    "Softmax of the last": lambda opset: softmax(opset, 3),
    "Split": split,
    "pools": pools,
    "activations": activations,
}


def file_of(parts: Parts, opset: int, path: Path, batch: int = 1) -> Path:
    """A convolution of pictures to `f`, and the parts."""
    nodes, constants = parts
    weight = np.random.default_rng(0).standard_normal((C, 3, 1, 1)).astype(np.float32)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(weight, "weight"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, H, W])
    y = helper.make_tensor_value_info("g", TensorProto.FLOAT, ["b", "c", "h", "w"])
    graph = helper.make_graph([node("Conv", "x weight", "f"), *nodes], "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_every_operator_of_every_opset(name: str, tmp_path: Path) -> None:
    for opset in OPSETS:
        path = file_of(CASES[name](opset), opset, tmp_path / f"{opset}.onnx")
        check_conversion(path, read_onnx(path), (H, W))


@pytest.mark.parametrize("form", ["value", "value_ints"])
def test_axes_may_be_constant_nodes(form: str, tmp_path: Path) -> None:
    """As the TorchScript exporter writes them at opset 18."""
    for kind in ("ReduceMean", "ReduceMax", "ReduceL2"):
        value = numpy_helper.from_array(ints(2, 3)) if form == "value" else [2, 3]
        axes = helper.make_node("Constant", [], ["axes"], **{form: value})
        path = file_of(([axes, node(kind, "f axes", keepdims=1)], {}), 18, tmp_path / "net.onnx")
        check_conversion(path, read_onnx(path), (H, W))


@pytest.mark.parametrize("opset", [9, 17, 18])
def test_the_long_name_of_the_domain(opset: int, tmp_path: Path) -> None:
    path = file_of(mean(opset), opset, tmp_path / "net.onnx")
    model = onnx.load(path)
    for one in (*model.opset_import, *model.graph.node):
        one.domain = "ai.onnx"
    onnx.save(model, path)
    check_conversion(path, read_onnx(path), (H, W))


def test_norms_behind_transposed_convolutions_are_norms(tmp_path: Path) -> None:
    """onnxruntime has them folded where a file has; here the file has them, of one mean per channel and spatial=0."""
    nodes, constants = transposed_and_norm(7)
    nodes[-1].attribute.remove(next(one for one in nodes[-1].attribute if one.name == "spatial"))
    expected = read_onnx(file_of((nodes, constants), 7, tmp_path / "default.onnx"))
    nodes[-1].attribute.append(helper.make_attribute("spatial", 0))
    network = read_onnx(file_of((nodes, constants), 7, tmp_path / "spatial.onnx"))
    x = torch.randn(2, 3, H, W)
    assert torch.equal(network(x), expected(x))
    assert any(isinstance(module, nn.ConvTranspose2d) for module in network.modules())


def test_what_no_later_opset_says_is_named(tmp_path: Path) -> None:
    masked = helper.make_node("Dropout", ["f"], ["d", "mask"])
    nodes = [masked, helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT), node("Mul", "d m")]
    with pytest.raises(NetworkError, match="Dropout whose mask is an output"):
        read_onnx(file_of((nodes, {}), 10, tmp_path / "mask.onnx"))
    with pytest.raises(NetworkError, match=r"opset 7 or later.*6"):
        read_onnx(file_of(([node("Relu", "f")], {}), 6, tmp_path / "old.onnx"))
