"""A small builder of ONNX graphs: standard nodes of opset 17 and the nodes of the domain `zerograsp`.

The stages are written node by node rather than traced: their custom nodes are fused units that no PyTorch
module has, and what a deployment runs stays readable in Netron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # ONNX Runtime 1.17 and TensorRT 10.3 read it
DOMAIN = "zerograsp"
CUSTOM_OP_VERSION = 1

_TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
Dim = int | str


class GraphBuilder:
    """Collects nodes, initialisers, inputs and outputs, and turns them into a checked model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, dtype: str, shape: Sequence[Dim]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], list(shape)))
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[Dim]) -> None:
        """Declares `value`, which a node makes, as a graph output; renamed, for an Identity would copy."""
        for node in self._nodes:
            node.input[:] = [name if n == value else n for n in node.input]
            node.output[:] = [name if n == value else n for n in node.output]
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], list(shape)))

    def constant(self, array: np.ndarray | np.generic, name: str | None = None) -> str:
        """Adds an initialiser; float64 is stored as float32."""
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = name or self._unique("constant")
        self._initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a standard node; returns the name of its output, or a tuple of names."""
        return self._node(op, inputs, outputs, "", attributes)

    def custom(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of the domain `zerograsp`, with what TensorRT needs to find its plugin."""
        attributes |= {"plugin_version": str(CUSTOM_OP_VERSION), "plugin_namespace": DOMAIN}
        return self._node(op, inputs, 1, DOMAIN, attributes)

    def model(self, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._initialisers)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(DOMAIN, CUSTOM_OP_VERSION))
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="zerograsp-edge"
        )
        helper.set_model_props(model, metadata or {})
        onnx.checker.check_model(model)
        return model

    def _unique(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count}"

    def _node(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str, attributes: dict[str, Any]
    ) -> Any:
        stem = self._unique(op)
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=stem, domain=domain, **attributes))
        return names[0] if outputs == 1 else tuple(names)


def describe_tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Name, element type and shape of a graph's input or output, as a bundle's manifest has them."""
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }
