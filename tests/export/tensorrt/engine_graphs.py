"""Small ONNX graphs that TensorRT must take, or refuse with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOMAIN = {"domain": "zerograsp", "plugin_version": "1", "plugin_namespace": "zerograsp"}
TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8,
}  # fmt: skip
Value = tuple[str, list[Any]]


class Graph:
    """A graph on disk, with the arguments that EngineBuilder.build takes for it.

    Args:
        nodes: (operator, inputs, attributes) of the nodes `<operator>_<index>`, each with the output of its index.
        inputs: (dtype, shape) by name; a str is a dynamic dimension of 8 to 64.
        output: (dtype, shape) of the last node's output `y`.
        constants: by name.
    """

    def __init__(
        self,
        path: Path,
        nodes: list[tuple[str, list[str], dict[str, Any]]],
        inputs: dict[str, Value],
        output: Value,
        **constants: np.ndarray,
    ) -> None:
        made = []
        for i, (operator, names, attributes) in enumerate(nodes):
            result = "y" if i == len(nodes) - 1 else f"t{i}"
            made.append(helper.make_node(operator, names, [result], name=f"{operator}_{i}", **attributes))

        def value(name: str, dtype: str, shape: list[Any]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TYPES[dtype], shape)

        graph = helper.make_graph(
            made,
            "graph",
            [value(name, *kind) for name, kind in inputs.items()],
            [value("y", *output)],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        path.write_bytes(model.SerializeToString())
        self.path = path
        self.task = {
            "onnx": str(path),
            "shapes": {
                name: [[n if isinstance(d, str) else d for d in shape] for n in (8, 16, 64)]
                for name, (_, shape) in inputs.items()
                if any(isinstance(d, str) for d in shape)
            },
            "tensors": {
                "inputs": {name: dtype for name, (dtype, _) in inputs.items()},
                "outputs": {"y": output[0]},
            },
        }


def convolution(
    path: Path,
    *,
    x: str = "float32",
    weight: str = "float32",
    bias: str = "float32",
    table: str = "int32",
    columns: int = 8,
    **attributes: Any,
) -> Graph:
    """An OctreeConv of 8 to 4 channels."""
    return Graph(
        path,
        [
            (
                "OctreeConv",
                ["x", "neighbours", "weight", "bias"],
                {**DOMAIN, "activation": "gelu", **attributes},
            )
        ],
        {"x": (x, ["N", columns]), "neighbours": (table, [27, "N"])},
        (x, ["N", 4]),
        weight=np.ones((27, 8, 4), weight),
        bias=np.zeros(4, bias),
    )
