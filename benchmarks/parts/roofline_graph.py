"""The shape of every tensor of an exported stage, for the sizes of one frame.

Standard nodes are left to ONNX's shape inference; the nodes of the domain `zerograsp` have the rules of
kernels/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

DOMAIN = "zerograsp"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A stage with known sizes.

    Attributes:
        nodes: in order of execution; casts of constants, which executors fold away, are left out.
        shapes: of every tensor.
        constants: weights and other initialisers by name.
        inputs, outputs: names of the stage's own tensors.
        integer: tensors whose type does not follow the network's precision (indices, keys, masks, images).
    """

    name: str
    nodes: list[onnx.NodeProto]
    shapes: dict[str, Shape]
    constants: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: dict[str, int]  # tensor -> bytes of an element

    def size(self, tensor: str) -> int:
        """Elements of a tensor."""
        return int(np.prod(self.shapes[tensor], dtype=np.int64))


def load_graph(path: Path, inputs: Mapping[str, Shape]) -> Graph:
    """A stage's graph for inputs of the given shapes.

    Raises:
        ValueError: an input is missing or has another rank, or a tensor's shape cannot be told.
    """
    model = onnx.load(str(path))
    _set_inputs(model, inputs)
    return _resolve(model, tuple(i.name for i in model.graph.input))


def _resolve(model: onnx.ModelProto, inputs: tuple[str, ...]) -> Graph:
    graph = model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    _forget_large_weights(model)
    folded = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast" and n.input[0] in constants}
    constants |= {name: constants[source] for name, source in folded.items()}
    nodes = [n for n in graph.node if n.output[0] not in folded]

    custom = [n for n in nodes if n.domain == DOMAIN]
    while True:
        model = shape_inference.infer_shapes(model, data_prop=True)
        shapes = {name: tuple(array.shape) for name, array in constants.items()} | _known(model)
        ready = [
            n for n in custom if n.output[0] not in shapes and all(i in shapes for i in n.input if i)
        ]  # fmt: skip
        if not ready and not _infer_ranges(model, nodes, shapes):
            break
        for node in ready:
            shape = _RULES[node.op_type](node, [shapes[i] if i else () for i in node.input])
            kind = TensorProto.INT32 if node.op_type in _INDEX_NODES else TensorProto.FLOAT
            model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, shape))
    missing = [name for n in nodes for name in n.output if name and name not in shapes]
    if missing:
        raise ValueError(f"{graph.name}: the shape of '{missing[0]}' does not follow from the inputs' shapes")
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    integer = {
        v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).itemsize
        for v in values
        if v.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16)
    }
    integer |= {name: a.dtype.itemsize for name, a in constants.items() if a.dtype.kind != "f"}
    return Graph(
        graph.name, nodes, shapes, constants, inputs, tuple(o.name for o in graph.output), integer,
    )  # fmt: skip


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def _set_inputs(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> None:
    for value in model.graph.input:
        if value.name not in inputs:
            raise ValueError(f"{model.graph.name}: expected a shape for the input '{value.name}', got none")
        dims = value.type.tensor_type.shape.dim
        shape = inputs[value.name]
        if len(shape) != len(dims):
            raise ValueError(
                f"{model.graph.name}: {value.name}: expected {len(dims)} dimensions, got {shape}"
            )
        for dim, size in zip(dims, shape, strict=True):
            dim.Clear()
            dim.dim_value = size
    for value in model.graph.output:  # their symbols follow from the inputs' sizes
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()


_SMALL = 64  # values; shape inference reads sizes and axes, never weights


def _forget_large_weights(model: onnx.ModelProto) -> None:
    """Makes inputs of large weights, which inference would only copy back and forth."""
    small = []
    for c in model.graph.initializer:
        if int(np.prod(c.dims)) > _SMALL:
            model.graph.input.append(helper.make_tensor_value_info(c.name, c.data_type, tuple(c.dims)))
        else:
            small.append(c)
    del model.graph.initializer[:]
    model.graph.initializer.extend(small)


def _infer_ranges(model: onnx.ModelProto, nodes: list[onnx.NodeProto], shapes: Mapping[str, Shape]) -> bool:
    """Shapes of `Range` from 0 to a dimension of a tensor, which ONNX's inference does not follow; any new?"""
    made = {name: n for n in nodes for name in n.output}
    small = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    found = False
    for node in nodes:
        if node.op_type != "Range" or node.output[0] in shapes:
            continue
        gather = made[node.input[1]]
        tensor = made[gather.input[0]].input[0]
        length = shapes[tensor][int(small[gather.input[1]].ravel()[0])]
        info = helper.make_tensor_value_info(node.output[0], TensorProto.INT64, (length,))
        known = [v for v in model.graph.value_info if v.name == node.output[0]]
        for v in known:
            model.graph.value_info.remove(v)
        model.graph.value_info.append(info)
        found = True
    return found


def _known(model: onnx.ModelProto) -> dict[str, Shape]:
    known = {}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            known[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return known


# ---- shapes of the custom nodes: (node, shapes of its inputs) -> shape of its output ----

_INDEX_NODES = ("OctreeNeighbor", "OctreeAlign")


def _occlusion(node: onnx.NodeProto, shapes: list[Shape]) -> Shape:
    r = int(attribute(node, "resolution"))  # type: ignore[call-overload]
    return (shapes[0][0], 2, r, r, r)


_RULES: dict[str, Callable[[onnx.NodeProto, list[Shape]], Shape]] = {
    "OctreeNeighbor": lambda _, s: (27, 8 * s[0][0]),
    "OctreeAlign": lambda _, s: (s[1][0],),
    "OctreeConv": lambda _, s: (s[1][1], s[2][2]),
    "OctreeDownsample": lambda _, s: (s[1][0], s[2][2]),
    "OctreeUpsample": lambda _, s: (8 * s[1][0], s[2][2]),
    "OctreeResidual": lambda _, s: (s[0][0], s[6][2]),
    "OctreeMlp": lambda _, s: (s[0][0], s[3][2]),
    "GridConv": lambda _, s: (*s[0][:-1], s[1][2]),
    "OcclusionField": _occlusion,
}
