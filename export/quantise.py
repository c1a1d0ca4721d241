"""INT8 in the graph: Q/DQ around standard layers, int8 nodes of the domain `zerograsp` in place of its convolutions.

Symmetric, one scale for an activation, one for every output channel of a weight; biases and sums are not quantised. The
scales come from calibration (`zerograsp_edge.calibration.int8`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zerograsp_edge.export.expand import PART
from zerograsp_edge.export.precision import half_layers

LEVELS = 127
STANDARD = {"MatMul": 1, "Conv": 0}  # the axis of the weight that counts the outputs
CUSTOM = ("OctreeConv", "OctreeDownsample", "OctreeUpsample", "OctreeResidual")


@dataclass(frozen=True)
class Int8Stage:
    """What to quantise of a stage: the layers, and per value the magnitude that becomes 127."""

    layers: tuple[str, ...]
    largest: Mapping[str, float]


def quantisable(model: onnx.ModelProto, stage: str) -> list[str]:
    """Names of the layers that have an int8 form and no reason to stay in float32; uncast weights, blocks whole."""
    weights = {i.name for i in model.graph.initializer}
    half = half_layers(model, stage)
    names = []
    for node in model.graph.node:
        constant = len(node.input) > 1 and node.input[1] in weights
        if node.name in half and ((node.op_type in STANDARD and constant) or node.op_type in CUSTOM):
            names.append(node.name)
    return names


def activations(model: onnx.ModelProto, names: Collection[str]) -> dict[str, list[str]]:
    """Per layer the values whose ranges it needs, as the expanded graph names them."""
    values = {}
    for node in model.graph.node:
        if node.name in names:
            values[node.name] = [node.input[0]]
            if node.op_type == "OctreeResidual":
                values[node.name] += [f"{node.name}{PART}a", f"{node.name}{PART}conv"]
    return values


def quantise(model: onnx.ModelProto, largest: Mapping[str, float], names: Collection[str]) -> None:
    """Quantises the named layers, in place.

    Args:
        model: float32, with uncast weights and whole blocks.
        largest: per value the magnitude that becomes 127; larger ones saturate.
        names: of `quantisable`.
    """
    graph = model.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    pairs: dict[str, str] = {}

    def constant(name: str, array: np.ndarray) -> str:
        if name not in weights:
            weights[name] = array
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def scale(value: str) -> float:
        return max(largest[value], 1e-12) / LEVELS

    def weight(name: str, by_output: Callable[[np.ndarray], np.ndarray]) -> tuple[str, str]:
        values, scales = quantise_weight(by_output(weights[name]))
        return constant(f"{name}_int8", values), constant(f"{name}_scale", scales)

    def through_int8(value: str) -> str:
        """Q and DQ behind a value; layers with one input share them."""
        if value not in pairs:
            step, zero = (
                constant(f"{value}_scale", np.array(scale(value), np.float32)),
                constant("int8_zero", np.zeros((), np.int8)),
            )
            q, dq = f"{value}_int8", f"{value}_dequantised"
            nodes.append(
                helper.make_node("QuantizeLinear", [value, step, zero], [q], name=f"quantise_{value}")
            )
            nodes.append(
                helper.make_node("DequantizeLinear", [q, step, zero], [dq], name=f"dequantise_{value}")
            )
            pairs[value] = dq
        return pairs[value]

    def standard(node: onnx.NodeProto) -> None:
        axis = STANDARD[node.op_type]
        name = node.input[1]
        array = weights[name]
        values, scales = quantise_weight(np.moveaxis(array, axis, 0).reshape(array.shape[axis], 1, -1))
        rest = [n for i, n in enumerate(array.shape) if i != axis]
        values = np.moveaxis(values.reshape(array.shape[axis], *rest), 0, axis)
        inputs = [
            constant(f"{name}_int8", values),
            constant(f"{name}_scale", scales),
            constant(f"{name}_zero", np.zeros(len(scales), np.int8)),
        ]
        dq = f"{name}_dequantised"
        nodes.append(helper.make_node("DequantizeLinear", inputs, [dq], name=f"dequantise_{name}", axis=axis))
        node.input[0], node.input[1] = through_int8(node.input[0]), dq
        nodes.append(node)

    def custom(node: onnx.NodeProto) -> None:
        inputs = list(node.input)
        attributes = {"x_scale": scale(inputs[0])}
        # (taps, cin, cout) as float32 nodes have them; an output's weights lie together in int8 nodes.
        outputs_first: Callable[[np.ndarray], np.ndarray] = lambda w: w.transpose(2, 0, 1)  # noqa: E731
        if node.op_type == "OctreeResidual":
            x, neighbours, wa, ba, w3, b3, wb, bb, *wc = inputs
            new = [x, neighbours, *weight(wa, outputs_first), ba, *weight(w3, outputs_first), b3]
            new += [*weight(wb, outputs_first), bb]
            for name in wc:
                new += weight(name, outputs_first)
            attributes["first_scale"] = scale(f"{node.name}{PART}a")
            attributes["second_scale"] = scale(f"{node.name}{PART}conv")
        else:
            x, table, w, b, *rest = inputs
            values, scales = quantise_weight(outputs_first(weights[w]))
            if node.op_type == "OctreeUpsample":
                values = values.transpose(1, 0, 2)  # a child's outputs lie together
            new = [x, table, constant(f"{w}_int8", values), constant(f"{w}_scale", scales), b, *rest]
        node.op_type += "Int8"
        node.input[:] = new
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        nodes.append(node)

    for source in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        if node.name not in names:
            nodes.append(node)
        elif node.op_type in STANDARD:
            standard(node)
        else:
            custom(node)
    used = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def quantise_weight(by_output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values (cout, ...) and scales (cout,): the largest weight of an output becomes 127."""
    by_output = np.ascontiguousarray(by_output, np.float32)
    largest = np.abs(by_output).reshape(len(by_output), -1).max(axis=1)
    scale = (np.where(largest > 0, largest, 1) / LEVELS).astype(np.float32)
    steps = by_output / scale.reshape(-1, *[1] * (by_output.ndim - 1))
    return np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8), scale
