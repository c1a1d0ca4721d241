"""The TensorRT plugins of the domain `zerograsp` in Python, without computation: names, attributes, types and shapes.

Where the C++ library cannot be built (no TensorRT headers), TensorRT still parses the stages and builds engines of them with
these. What they accept is what kernels/README.md says of the nodes: features, weights, residuals and skips have one type, float
or half; biases are float; tables int32, keys int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NAMESPACE = "zerograsp"
VERSION = "1"
ACTIVATIONS = ("none", "gelu", "elu", "relu")

# What an input may be: T is float or half, the same for all of a node.
T, BIAS, I32, I64, U8, F32 = "T", "float", "int32", "int64", "uint8", "float"


@dataclass(frozen=True)
class Node:
    """One custom node.

    Attributes:
        inputs: type of every input, optional ones last.
        required: how many of them must be there.
        output: type of the output.
        shape: from the inputs' shapes (lists of dimension expressions), the attributes and an arithmetic on expressions to
            the output's shape.
        attributes: name and default; an int, a float or a str.
    """

    inputs: tuple[str, ...]
    required: int
    output: str
    shape: Callable[[list[Any], dict[str, Any], Any], list[Any]]
    attributes: dict[str, Any]


ACTIVATION = {"activation": "none"}
NODES = {
    "OctreeNeighbor": Node((I32, I32), 1, I32, lambda x, a, e: [e.constant(27), e.times(x[0][0], 8)], {}),
    "OctreeConv": Node((T, I32, T, BIAS), 4, T, lambda x, a, e: [x[1][1], x[2][2]], ACTIVATION),
    "OctreeDownsample": Node((T, I32, T, BIAS), 4, T, lambda x, a, e: [x[1][0], x[2][2]], ACTIVATION),
    "OctreeUpsample": Node(
        (T, I32, T, BIAS, T, I32), 6, T, lambda x, a, e: [e.times(x[1][0], 8), x[2][2]], ACTIVATION
    ),
    "OctreeResidual": Node(
        (T, I32, T, BIAS, T, BIAS, T, BIAS, T), 8, T, lambda x, a, e: [x[0][0], x[6][2]], {}
    ),
    "OctreeMlp": Node((T, T, BIAS, T, BIAS), 5, T, lambda x, a, e: [x[0][0], x[3][2]], {}),
    "GridConv": Node(
        (T, T, BIAS, T), 3, T, lambda x, a, e: [*x[0][:4], x[1][2]], {**ACTIVATION, "resolution": 8}
    ),
    "OctreeAlign": Node((I64, I64), 2, I32, lambda x, a, e: [x[1][0]], {}),
    "OcclusionField": Node(
        (F32, I32, F32, I32, U8, F32),
        6,
        F32,
        lambda x, a, e: [x[0][0], e.constant(2), *[e.constant(a["resolution"])] * 3],
        {"edge": 80.0, "resolution": 8},
    ),
}


@dataclass(frozen=True)
class _Expressions:
    """Arithmetic on the dimensions that TensorRT passes to a shape function."""

    trt: Any
    builder: Any

    def constant(self, value: int) -> Any:
        return self.builder.constant(value)

    def times(self, dimension: Any, factor: int) -> Any:
        return self.builder.operation(self.trt.DimensionOperation.PROD, dimension, self.constant(factor))


def register(trt: Any, without: Sequence[str] = ()) -> list[Any]:
    """Registers a creator for every node; keep the returned list alive for as long as they are used.

    Args:
        trt: the TensorRT package.
        without: nodes to leave out.
    """
    creators = [_creator(trt, name, node) for name, node in NODES.items() if name not in without]
    for creator in creators:
        if not trt.get_plugin_registry().register_creator(creator, NAMESPACE):
            raise RuntimeError(f"TensorRT refused the creator of {creator.name}")
    return creators


def _creator(trt: Any, name: str, node: Node) -> Any:
    kinds = {
        int: (np.int32, trt.PluginFieldType.INT32),
        float: (np.float32, trt.PluginFieldType.FLOAT32),
        str: (np.int8, trt.PluginFieldType.CHAR),
    }
    types = {
        "float": trt.DataType.FLOAT,
        "half": trt.DataType.HALF,
        "int32": trt.DataType.INT32,
        "int64": trt.DataType.INT64,
        "uint8": trt.DataType.UINT8,
    }

    def field(attribute: str, value: Any) -> Any:
        dtype, kind = kinds[type(value)]
        data = list(value.encode()) if isinstance(value, str) else [value]
        return trt.PluginField(attribute, np.array(data, dtype), kind)

    class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        def __init__(self, attributes: dict[str, Any]) -> None:
            for base in Plugin.__bases__:
                base.__init__(self)
            self.attributes = attributes
            self.num_outputs = 1
            self.plugin_name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.attributes)

        def get_output_data_types(self, inputs: Sequence[Any]) -> list[Any]:
            return [inputs[0] if node.output == T else types[node.output]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> list[Any]:
            shapes = [[shape[i] for i in range(len(shape))] for shape in inputs]
            dims = node.shape(shapes, self.attributes, _Expressions(trt, builder))
            result = trt.DimsExprs(len(dims))
            for i, dim in enumerate(dims):
                result[i] = dim
            return [result]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
            def type_of(i: int) -> Any:
                tensor = tensors[i]
                return tensor.desc.type if hasattr(tensor, "desc") else tensor.type

            tensor = tensors[position].desc if hasattr(tensors[position], "desc") else tensors[position]
            if not node.required <= inputs <= len(node.inputs) or tensor.format != trt.TensorFormat.LINEAR:
                return False
            wanted = node.inputs[position] if position < inputs else node.output
            if wanted != T:
                return bool(tensor.type == types[wanted])
            first = type_of(node.inputs.index(T))
            return bool(tensor.type == first and first in (types["float"], types["half"]))

        def configure_plugin(self, inputs: Any, outputs: Any) -> None: ...

        def on_shape_change(self, inputs: Any, outputs: Any) -> None: ...

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection([field(k, v) for k, v in self.attributes.items()])

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None: ...

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return 0

        def enqueue(self, *arguments: Any) -> int:
            raise NotImplementedError("a stand-in computes nothing")

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(k, np.array([]), kinds[type(v)][1]) for k, v in node.attributes.items()]
            )

        def create_plugin(self, layer: str, fields: Any, phase: Any) -> Any:
            attributes = dict(node.attributes)
            for given in fields:
                if given.name not in attributes:
                    continue  # plugin_version and plugin_namespace
                default = attributes[given.name]
                if given.type != kinds[type(default)][1]:
                    raise ValueError(f"{name} {layer}: attribute {given.name} has the type {given.type}")
                data = np.array(given.data)
                attributes[given.name] = (
                    bytes(data.astype(np.uint8)).rstrip(b"\0").decode() if isinstance(default, str) else type(default)(data[0])
                )
            if attributes.get("activation", "none") not in ACTIVATIONS:
                raise ValueError(
                    f"{name} {layer}: activation {attributes['activation']!r}, expected one of {ACTIVATIONS}"
                )
            if not 1 <= attributes.get("resolution", 1) <= 32:
                raise ValueError(f"{name} {layer}: resolution {attributes['resolution']}, expected 1 to 32")
            return Plugin(attributes)

    return Creator()
