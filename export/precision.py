"""The precision of every layer, decided in the graph: the types of a node's inputs say which type it computes in.

A stage of float32 becomes one of mixed precision by explicit Cast nodes, in opset 17, so that it means the same to
every executor and can be tested on any. Layers compute in float16 on float16 weights unless there is a reason, which
the manifest records: what squares or exponentiates (LayerNorm, softmax), what decides (occupancy logits, signed
distance), what is a coordinate, and what was seen to leave float16's range (`Policy.keep`).

Between stages features are float16; occupancy logits, signal, latent and everything geometric stay float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST_HALF = float(np.finfo(np.float16).max)

# Operators that stay in float32, and why.
KEPT = {
    "LayerNormalization": "squares a row's values",
    "Softmax": "sums exponentials",
    "Exp": "overflows",
    "Cos": "of an angle in coordinates",
    "Sin": "of an angle in coordinates",
    "OcclusionField": "decides by coordinates",
    "OctreeMlp": "predicts occupancy logits and signed distance",
    "Cast": "makes float32 of integers",
}
# What is computed from these graph inputs, up to the first operator in _PATH_ENDS, stays in float32.
_PATHS = {
    "rgb": "normalises the 8-bit image",
    "positions": "makes angles of coordinates",
    "noise": "belongs to an object: its latent vector",
}
_PATH_ENDS = {"Conv", "Cos", "Sin", "OcclusionField", "Gather"}
_POOLED = "belongs to an object: mean over all its nodes, and what is made of it"

# Operators that only move values: no layer of their own in the manifest's table.
_MOVES = {"Concat", "Gather", "Reshape", "Split", "Transpose", "Unsqueeze"}

# Inputs of nodes that are float32 whatever the node computes in: biases, and Resize's region and scales.
_FLOAT_INPUTS = {
    "OctreeConv": {3},
    "OctreeDownsample": {3},
    "OctreeUpsample": {3},
    "OctreeResidual": {3, 5, 7},
    "OctreeMlp": {2, 4},
    "GridConv": {2},
    "OctreeConvInt8": {3, 4},
    "OctreeDownsampleInt8": {3, 4},
    "OctreeUpsampleInt8": {3, 4},
    "OctreeResidualInt8": {3, 4, 6, 7, 9, 10, 12},
    "Resize": {1, 2},
}
_INTEGER_OUTPUT = {"Shape", "Equal", "OctreeNeighbor", "OctreeAlign"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_SUFFIX: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


class PrecisionError(ValueError):
    """A stage that cannot be converted; the message says why."""


@dataclass(frozen=True)
class Policy:
    """What is kept in float32 beside the built-in rules.

    Attributes:
        keep: pattern of `<stage>/<layer>` or of a tensor `<stage>/<tensor>` that passes between stages (as its producer
            names it), with `*` and `?`, to the reason.
    """

    keep: Mapping[str, str] = field(default_factory=dict)

    def kept(self, name: str) -> str | None:
        """Why a layer or tensor stays in float32; None if it does not."""
        return next((why for pattern, why in self.keep.items() if fnmatchcase(name, pattern)), None)


@dataclass(frozen=True)
class Layer:
    """A line of the manifest's table: what a layer computes in, and why if it is not the bundle's precision."""

    name: str
    op: str
    precision: str
    why: str = ""


def passed_on(stage: str, tensor: str) -> str | None:
    """The name, from its producer, of a feature tensor that passes between stages; None for any other tensor."""
    depth = int(stage.rpartition("_")[2]) if stage.startswith("decoder_") else 0
    if (stage, tensor) in (("image_encoder", "image_features"), ("octree_encoder", "features")):
        return "image_encoder/image_features"
    if tensor == "tokens":
        return "octree_encoder/tokens"
    if stage == "octree_encoder" and tensor.startswith("skip_"):
        return f"octree_encoder/{tensor}"
    if depth and tensor == "skip":
        return f"octree_encoder/skip_{depth}"
    if depth and tensor == "parent_features":
        return f"decoder_{depth - 1}/features"
    if depth and tensor == "features":
        return f"decoder_{depth}/features"
    return None


def half_layers(model: onnx.ModelProto, stage: str, policy: Policy | None = None) -> set[str]:
    """Names of the layers of a float32 stage that would compute in float16."""
    types = value_types(model.graph)
    kept = _reasons(model.graph, stage, types, policy or Policy())
    return {node.name for node in layers(model.graph, types) if node.name not in kept}


def to_half(model: onnx.ModelProto, stage: str, policy: Policy | None = None) -> tuple[Layer, ...]:
    """Turns a float32 stage into float16 with what the policy keeps, in place; returns its table of layers.

    Weights that were stored in half precision and cast (see `half_weights`) are taken as they are stored.

    Raises:
        PrecisionError: a part of the graph is not float32, or has an unknown type.
    """
    policy = policy or Policy()
    uncast_weights(model)
    graph = model.graph
    types = value_types(graph)
    if TensorProto.FLOAT16 in types.values():
        raise PrecisionError(f"{stage}: expected a float32 stage, this one has float16 tensors already")
    reasons = _reasons(graph, stage, types, policy)
    integer = int8_layers(graph)
    table = [
        Layer(node.name, node.op_type, "int8")
        if node.name in integer
        else Layer(
            node.name, node.op_type, "fp32" if node.name in reasons else "fp16", reasons.get(node.name, "")
        )
        for node in layers(graph, types)
    ]
    _Rewriter(model, stage, types, set(reasons), policy).run()
    onnx.checker.check_model(model)
    return tuple(table)


def uncast_weights(model: onnx.ModelProto) -> None:
    """Float32 initialisers in place of float16 ones with a Cast behind them, in place."""
    graph = model.graph
    stored = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            weight = stored[node.input[0]]
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def value_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type of every value. All operators of the stages but a few pass on their first input's."""
    types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    types |= {i.name: i.data_type for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast":
            kind = next(a.i for a in node.attribute if a.name == "to")
        elif node.op_type in _INTEGER_OUTPUT:
            kind = TensorProto.INT64 if node.op_type == "Shape" else TensorProto.INT32
        elif node.op_type == "QuantizeLinear":
            kind = types[node.input[2]]
        elif node.op_type == "DequantizeLinear":
            kind = types[node.input[1]]
        else:
            kind = types[node.input[0]]
        types |= dict.fromkeys(node.output, kind)
    return types


def layers(graph: onnx.GraphProto, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    """The nodes that compute with floats."""
    return [
        n
        for n in graph.node
        if types[n.output[0]] in _FLOATS and n.op_type not in _MOVES | {"Cast", "DequantizeLinear"}
    ]  # fmt: skip


def int8_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the layers that multiply int8: between Q/DQ, or nodes of their own."""
    dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {
        n.name
        for n in graph.node
        if n.op_type.endswith("Int8") or (len(n.input) > 1 and n.input[1] in dequantised)
    }


def _reasons(graph: onnx.GraphProto, stage: str, types: Mapping[str, int], policy: Policy) -> dict[str, str]:
    """Name of every node that stays in float32, and why."""
    # Q and DQ are float32 in opset 17, and so are standard layers between them.
    integer = int8_layers(graph)
    why = {
        n.name: "int8"
        for n in graph.node
        if n.op_type == "DequantizeLinear" or (n.name in integer and not n.domain)
    }
    for node in graph.node:
        if types[node.output[0]] == TensorProto.FLOAT and node.op_type in KEPT:
            why[node.name] = KEPT[node.op_type]
    paths = {v.name: _PATHS[v.name] for v in graph.input if v.name in _PATHS}
    sums = [n.output[0] for n in graph.node if n.op_type == "ReduceSum" and types[n.output[0]] in _FLOATS]
    for value, reason in (*paths.items(), *((name, _POOLED) for name in sums)):
        for name in _downstream(graph, value, types):
            why.setdefault(name, reason)
    if sums:
        # The sum of features that is divided by the count: its result is used by nodes above alone.
        users = _users(graph)
        for node in graph.node:
            if node.op_type == "MatMul" and all(n.name in why for n in users.get(node.output[0], ())):
                why.setdefault(node.name, _POOLED)
            if node.op_type == "ReduceSum" and node.output[0] in sums:
                why.setdefault(node.name, _POOLED)
    largest = {
        i.name: float(np.abs(numpy_helper.to_array(i)).max(initial=0.0))
        for i in graph.initializer
        if i.data_type == TensorProto.FLOAT
    }
    for node in graph.node:
        if types[node.output[0]] != TensorProto.FLOAT:
            continue
        if (kept := policy.kept(f"{stage}/{node.name}")) is not None:
            why[node.name] = kept
        for index, name in enumerate(node.input):
            converted = index not in _FLOAT_INPUTS.get(node.op_type, ())
            if converted and not largest.get(name, 0.0) <= LARGEST_HALF:
                why[node.name] = f"has a weight of {largest[name]:.3g}"
    return why


def _downstream(graph: onnx.GraphProto, value: str, types: Mapping[str, int]) -> Iterable[str]:
    """Names of the float nodes that the value reaches before an operator of _PATH_ENDS."""
    reached = {value}
    for node in graph.node:
        if reached.isdisjoint(node.input) or node.op_type in _PATH_ENDS:
            continue
        if types[node.output[0]] in _FLOATS:
            reached.update(node.output)
            yield node.name


def _users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


class _Rewriter:
    """Writes a graph's nodes anew, with casts where a value is needed in another type than it has."""

    def __init__(
        self,
        model: onnx.ModelProto,
        stage: str,
        types: Mapping[str, int],
        float_nodes: set[str],
        policy: Policy,
    ) -> None:
        self._graph = model.graph
        self._stage = stage
        self._types = types
        self._float_nodes = float_nodes
        self._policy = policy
        self._nodes: list[onnx.NodeProto] = []
        self._weights = {i.name: i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
        self._made: dict[str, onnx.TensorProto] = {}  # initialisers in the types they are used in
        self._versions: dict[str, dict[int, str]] = {}  # of every float value: the name by type

    def run(self) -> None:
        graph = self._graph
        for value in graph.input:
            if self._types[value.name] == TensorProto.FLOAT:
                kind = self._boundary(value.name)
                value.type.tensor_type.elem_type = kind
                self._versions[value.name] = {kind: value.name}
        outputs = {v.name: self._boundary(v.name) for v in graph.output if self._types[v.name] in _FLOATS}
        for node in graph.node:
            self._add(node, outputs)
        for value in graph.output:
            if value.name in outputs:
                value.type.tensor_type.elem_type = outputs[value.name]
        kept = [i for i in graph.initializer if i.name not in self._weights]
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend([*kept, *self._made.values()])
        graph.node.extend(self._nodes)

    def _boundary(self, tensor: str) -> int:
        """The type in which a tensor enters or leaves the stage."""
        name = passed_on(self._stage, tensor)
        half = name is not None and self._policy.kept(name) is None
        return TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def _add(self, source: onnx.NodeProto, outputs: Mapping[str, int]) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        computes = self._types[source.output[0]] == TensorProto.FLOAT
        kind = TensorProto.FLOAT16 if computes and source.name not in self._float_nodes else TensorProto.FLOAT
        fixed = _FLOAT_INPUTS.get(node.op_type, ())
        for i, name in enumerate(source.input):
            if name and self._types[name] == TensorProto.FLOAT:
                # Shape takes the value as it is; Q, which makes integers too, is float32 in opset 17.
                as_is = not computes and node.op_type != "QuantizeLinear"
                node.input[i] = self._in_type(
                    name, None if as_is else TensorProto.FLOAT if i in fixed else kind
                )
        self._nodes.append(node)
        if not computes:
            return
        for i, name in enumerate(source.output):
            self._versions[name] = {kind: name}
            if outputs.get(name, kind) != kind:
                node.output[i] = f"{name}_{_SUFFIX[kind]}"
                self._versions[name] = {kind: node.output[i]}
                self._cast(node.output[i], name, outputs[name])
                self._versions[name][outputs[name]] = name

    def _in_type(self, name: str, kind: int | None) -> str:
        """The name under which a float value is there in a type; None: in any."""
        if name in self._weights:
            return self._weight(name, kind or TensorProto.FLOAT)
        versions = self._versions[name]
        if kind is None:
            return next(iter(versions.values()))
        if kind not in versions:
            versions[kind] = f"{name}_{_SUFFIX[kind]}"
            self._cast(next(iter(versions.values())), versions[kind], kind)
        return versions[kind]

    def _weight(self, name: str, kind: int) -> str:
        made = f"{name}_{_SUFFIX[kind]}" if kind == TensorProto.FLOAT16 else name
        if made not in self._made:
            values = numpy_helper.to_array(self._weights[name])
            values = values.astype(helper.tensor_dtype_to_np_dtype(kind))
            self._made[made] = numpy_helper.from_array(values, made)
        return made

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind))
