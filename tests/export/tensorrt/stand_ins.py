"""The TensorRT plugins of the domain `zerograsp` in Python, without computation: names, attributes, types and shapes.

Where the C++ library cannot be built (no TensorRT headers), TensorRT still parses the stages and builds engines of them
with these. What they accept and what comes out is what kernels/README.md says of the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

NAMESPACE = "zerograsp"
VERSION = "1"
FEATURE = "feature"  # float32 or float16, the same for all of a node
ACTIVATIONS = ("none", "gelu", "elu", "relu")
NUMBERS = ("edge", "x_scale", "first_scale", "second_scale")  # float attributes, above 0
LARGEST_RESOLUTION = 32


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        shape: one word a dimension: a number, a symbol, a multiple of one (`8S`), or `r`, the attribute `resolution`.
    """

    name: str
    dtype: str
    shape: str
    optional: bool = False


@dataclass(frozen=True)
class Node:
    inputs: tuple[Tensor, ...]
    output: Tensor
    attributes: tuple[str, ...] = ()


def tensors(dtype: str, **shapes: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, shape) for name, shape in shapes.items())


def features(**shapes: str) -> tuple[Tensor, ...]:
    return tensors(FEATURE, **shapes)


def biases(**shapes: str) -> tuple[Tensor, ...]:
    return tensors("float32", **shapes)


def tables(**shapes: str) -> tuple[Tensor, ...]:
    return tensors("int32", **shapes)


def scaled(**shapes: str) -> tuple[Tensor, ...]:
    """int8 weights, each with the scales of its outputs: its first dimension that is no number."""
    made: list[Tensor] = []
    for name, shape in shapes.items():
        cout = next(word for word in shape.split() if word.isalpha())
        made += [Tensor(name, "int8", shape), Tensor(f"{name}_scale", "float32", cout)]
    return tuple(made)


def y(shape: str) -> Tensor:
    return Tensor("y", FEATURE, shape)


NODES = {
    "OctreeNeighbor": Node(
        (*tables(split_neighbours="S 27"), Tensor("rank", "int32", "8S", optional=True)),
        Tensor("neighbours", "int32", "27 8S"),
    ),
    "OctreeConv": Node(
        (*features(x="M Cin"), *tables(neighbours="K N"), *features(weight="K Cin Cout"), *biases(bias="Cout")),
        y("N Cout"),
        ("activation",),
    ),
    "OctreeDownsample": Node(
        (*features(x="M Cin"), *tables(children="N"), *features(weight="8 Cin Cout"), *biases(bias="Cout")),
        y("N Cout"),
        ("activation",),
    ),
    "OctreeUpsample": Node(
        (
            *features(x="R Cin"), *tables(split_rows="S"), *features(weight="8 Cin Cout"), *biases(bias="Cout"),
            *features(skip="M Cout"), *tables(skip_index="8S"),
        ),
        y("8S Cout"),
        ("activation",),
    ),
    "OctreeResidual": Node(
        (
            *features(x="N C"), *tables(neighbours="27 N"), *features(wa="1 C H"), *biases(ba="H"),
            *features(w3="27 H H"), *biases(b3="H"), *features(wb="1 H Co"), *biases(bb="Co"),
            Tensor("wc", FEATURE, "1 C Co", optional=True),
        ),
        y("N Co"),
    ),
    "OctreeConvInt8": Node(
        (*features(x="M Cin"), *tables(neighbours="K N"), *scaled(weight="Cout K Cin"), *biases(bias="Cout")),
        y("N Cout"),
        ("activation", "x_scale"),
    ),
    "OctreeDownsampleInt8": Node(
        (*features(x="M Cin"), *tables(children="N"), *scaled(weight="Cout 8 Cin"), *biases(bias="Cout")),
        y("N Cout"),
        ("activation", "x_scale"),
    ),
    "OctreeUpsampleInt8": Node(
        (
            *features(x="R Cin"), *tables(split_rows="S"), *scaled(weight="8 Cout Cin"), *biases(bias="Cout"),
            *features(skip="M Cout"), *tables(skip_index="8S"),
        ),
        y("8S Cout"),
        ("activation", "x_scale"),
    ),
    "OctreeResidualInt8": Node(
        (
            *features(x="N C"), *tables(neighbours="27 N"), *scaled(wa="H 1 C"), *biases(ba="H"),
            *scaled(w3="H 27 H"), *biases(b3="H"), *scaled(wb="Co 1 H"), *biases(bb="Co"),
            *(replace(tensor, optional=True) for tensor in scaled(wc="Co 1 C")),
        ),
        y("N Co"),
        ("x_scale", "first_scale", "second_scale"),
    ),
    "OctreeMlp": Node(
        (
            *features(x="N C"), *features(w1="1 C H"), *biases(b1="H"), *features(w2="1 H O"),
            *biases(b2="O"),
        ),
        y("N O"),
    ),
    "GridConv": Node(
        (
            *features(x="N r r r Cin", weight="27 Cin Cout"), *biases(bias="Cout"),
            Tensor("residual", FEATURE, "N r r r Cout", optional=True),
        ),
        y("N r r r Cout"),
        ("activation", "resolution"),
    ),
    "OctreeAlign": Node(tensors("int64", source_keys="M", target_keys="N"), Tensor("rows", "int32", "N")),
    "OcclusionField": Node(
        (
            *tensors("float32", centres="N 3"), *tables(object="N"), *tensors("float32", depth="H W"),
            *tables(labels="H W"), *tensors("bool", adjacency="B B"), *tensors("float32", intrinsics="3 3"),
        ),
        Tensor("flags", "float32", "N 2 r r r"),
        ("edge", "resolution"),
    ),
}  # fmt: skip


def output_shape(
    node: Node, attributes: dict[str, Any], shapes: Sequence[Sequence[Any]], arithmetic: Any
) -> list[Any]:
    """The output's dimensions from the inputs'.

    Args:
        shapes: of the inputs; a dimension is an int, or whatever `arithmetic` knows.
        arithmetic: `constant(int)`, `times(dimension, int)`, and `value(dimension)`: its int, or None if unknown.

    Raises:
        ValueError: the shapes do not fit the node's.
    """
    found: dict[str, Any] = {}
    values: dict[str, int] = {"r": attributes.get("resolution", 0)}
    for tensor, shape in zip(node.inputs, shapes, strict=False):
        words = tensor.shape.split()
        if len(words) != len(shape):
            raise ValueError(f"input {tensor.name}: expected {len(words)} dimensions, got {len(shape)}")
        for word, dimension in zip(words, shape, strict=True):
            value, symbol = (
                arithmetic.value(dimension),
                word.removeprefix("8") if word[-1].isalpha() else word,
            )
            factor = 8 if word != symbol else 1
            if factor == 1:
                found.setdefault(symbol, dimension)
            if value is None:
                continue
            expected = int(word) if word.isdigit() else values.setdefault(symbol, value // factor) * factor
            if value != expected:
                raise ValueError(f"input {tensor.name}: expected {word} = {expected}, got {value}")

    def dimension(word: str) -> Any:
        if word.isdigit():
            return arithmetic.constant(int(word))
        if word == "r":
            return arithmetic.constant(values["r"])
        return found[word] if word[0] != "8" else arithmetic.times(found[word[1:]], 8)

    return [dimension(word) for word in node.output.shape.split()]


@dataclass(frozen=True)
class _Expressions:
    """Arithmetic on the dimensions that TensorRT passes to a shape function."""

    trt: Any
    builder: Any

    def constant(self, value: int) -> Any:
        return self.builder.constant(value)

    def times(self, dimension: Any, factor: int) -> Any:
        return self.builder.operation(self.trt.DimensionOperation.PROD, dimension, self.constant(factor))

    def value(self, dimension: Any) -> int | None:
        return int(dimension.get_constant_value()) if dimension.is_constant() else None


def register(trt: Any, say: Callable[[str], None], without: Sequence[str] = ()) -> list[Any]:
    """Registers a creator for every node; keep the returned list alive for as long as they are used.

    Args:
        trt: the TensorRT package.
        say: receives what is wrong with a node, as TensorRT's logger does from the C++ library.
        without: nodes to leave out.
    """
    creators = [creator_of(trt, name, say) for name in NODES if name not in without]
    for creator in creators:
        if not trt.get_plugin_registry().register_creator(creator, NAMESPACE):
            raise RuntimeError(f"TensorRT refused the creator of {creator.name}")
    return creators


def creator_of(trt: Any, name: str, say: Callable[[str], None]) -> Any:
    """A creator of one node's plugin."""

    def refused(reason: str) -> ValueError:
        say(f"zerograsp::{name}: {reason}")
        return ValueError(reason)

    node = NODES[name]
    kinds = dict.fromkeys(NUMBERS, (np.float32, trt.PluginFieldType.FLOAT32))
    kinds["activation"] = (np.int8, trt.PluginFieldType.CHAR)
    kinds["resolution"] = (np.int32, trt.PluginFieldType.INT32)
    types = {
        "float32": trt.DataType.FLOAT,
        "float16": trt.DataType.HALF,
        "int8": trt.DataType.INT8,
        "int32": trt.DataType.INT32,
        "int64": trt.DataType.INT64,
        "bool": trt.DataType.BOOL,
    }
    names = {value: key for key, value in types.items()} | {trt.DataType.UINT8: "uint8"}

    def misfit(position: int, dtype: Any, first: Any) -> str:
        """What is wrong with an input's type, where the first input has the type `first`; empty if nothing is."""
        wanted = node.inputs[position].dtype
        if wanted != FEATURE:
            fits = dtype == types[wanted]
        else:
            fits = dtype == first and first in (types["float32"], types["float16"])
            wanted = names[first] if fits or position else "float32 or float16"
        got = names.get(dtype, str(dtype))
        return "" if fits else f"input {node.inputs[position].name}: expected {wanted}, got {got}"

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
            required = sum(not tensor.optional for tensor in node.inputs)
            if len(inputs) not in (required, len(node.inputs)):
                raise refused(f"expected {required} or {len(node.inputs)} inputs")
            for i, dtype in enumerate(inputs):
                if reason := misfit(i, dtype, inputs[0]):
                    raise refused(reason)
            return [self.output_type(inputs[0])]

        def output_type(self, first: Any) -> Any:
            return first if node.output.dtype == FEATURE else types[node.output.dtype]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> list[Any]:
            shapes = [[shape[i] for i in range(len(shape))] for shape in inputs]
            try:
                dimensions = output_shape(node, self.attributes, shapes, _Expressions(trt, builder))
            except ValueError as error:
                raise refused(str(error)) from error
            result = trt.DimsExprs(len(dimensions))
            for i, dimension in enumerate(dimensions):
                result[i] = dimension
            return [result]

        def supports_format_combination(self, position: int, io: Sequence[Any], inputs: int) -> bool:
            described = [getattr(tensor, "desc", tensor) for tensor in io]
            tensor, first = described[position], described[0].type
            if tensor.format != trt.TensorFormat.LINEAR:
                return False
            if position < inputs:
                return not misfit(position, tensor.type, first)
            return bool(tensor.type == self.output_type(first))

        def configure_plugin(self, inputs: Any, outputs: Any) -> None: ...

        def on_shape_change(self, inputs: Any, outputs: Any) -> None: ...

        def get_fields_to_serialize(self) -> Any:
            fields = []
            for key, value in self.attributes.items():
                dtype, kind = kinds[key]
                data = list(value.encode()) if isinstance(value, str) else [value]
                fields.append(trt.PluginField(key, np.array(data, dtype), kind))
            return trt.PluginFieldCollection(fields)

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
                [trt.PluginField(key, np.array([]), kinds[key][1]) for key in node.attributes]
            )

        def create_plugin(self, layer: str, fields: Any, phase: Any) -> Any:
            attributes: dict[str, Any] = {
                key: "none" if key == "activation" else None for key in node.attributes
            }
            for given in fields:
                key = given.name
                if key in ("plugin_version", "plugin_namespace"):
                    continue
                if key not in attributes:
                    raise refused(f"attribute {key}: the node has none of this name")
                if given.type != kinds[key][1]:
                    raise refused(f"attribute {key}: got field type {given.type}")
                data = np.array(given.data)
                if key == "activation":
                    attributes[key] = bytes(data.astype(np.uint8)).rstrip(b"\0").decode()
                    if attributes[key] not in ACTIVATIONS:
                        expected = ", ".join(ACTIVATIONS)
                        raise refused(f"attribute {key}: expected {expected}, got '{attributes[key]}'")
                else:
                    attributes[key] = data[0].item()
                    highest = LARGEST_RESOLUTION if key == "resolution" else np.inf
                    if not 0 < attributes[key] <= highest:
                        raise refused(f"attribute {key}: expected 1 to {highest}, got {attributes[key]}")
            if missing := [key for key, value in attributes.items() if value is None]:
                raise refused(f"attribute {missing[0]}: it is missing")
            return Plugin(attributes)

    return Creator()
