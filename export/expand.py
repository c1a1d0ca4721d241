"""Fused nodes as their parts, so that what flows inside a residual block or a head can be seen, and quantised.

A product with a matrix is a convolution of one tap whose neighbour of every row is the row itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zerograsp_edge.export.graph import CUSTOM_OP_VERSION, DOMAIN

PART = ":"  # <node>:<part> is the name of a part, and of the value it makes


def expand_blocks(model: onnx.ModelProto) -> None:
    """Replaces every OctreeResidual and OctreeMlp by OctreeConv nodes (and Add, Elu), in place; float32 only."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    rows: dict[str, str] = {}
    weights = {i.name: i for i in graph.initializer}

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(name: str, array: np.ndarray) -> str:
        if name not in weights:
            graph.initializer.append(numpy_helper.from_array(array, name))
            weights[name] = graph.initializer[-1]
        return name

    def own_rows(x: str) -> str:
        """(1, N) int32: row i is node i's only neighbour."""
        if x not in rows:
            zero, one = (constant(f"rows:{n}", np.array(n, np.int64)) for n in (0, 1))
            count = add("Gather", [add("Shape", [x], f"{x}:shape"), zero], f"{x}:count")
            index = add(
                "Cast", [add("Range", [zero, count, one], f"{x}:range")], f"{x}:int", to=TensorProto.INT32
            )
            rows[x] = add("Unsqueeze", [index, constant("rows:axes", np.array([0], np.int64))], f"{x}:rows")
        return rows[x]

    def conv(x: str, table: str, weight: str, bias: str, output: str, activation: str) -> str:
        return add(
            "OctreeConv", [x, table, weight, bias], output,
            domain=DOMAIN, activation=activation, plugin_version=str(CUSTOM_OP_VERSION), plugin_namespace=DOMAIN,
        )  # fmt: skip

    for node in graph.node:
        name = node.name
        if node.op_type == "OctreeResidual":
            x, neighbours, wa, ba, w3, b3, wb, bb, *wc = node.input
            inner = conv(x, own_rows(x), wa, ba, f"{name}{PART}a", "gelu")
            inner = conv(inner, neighbours, w3, b3, f"{name}{PART}conv", "gelu")
            inner = conv(inner, own_rows(x), wb, bb, f"{name}{PART}b", "none")
            shortcut = x
            if wc:
                zeros = constant(f"{name}{PART}zeros", np.zeros(weights[wc[0]].dims[2], np.float32))
                shortcut = conv(x, own_rows(x), wc[0], zeros, f"{name}{PART}shortcut", "none")
            add("Elu", [add("Add", [shortcut, inner], f"{name}{PART}sum")], node.output[0], alpha=1.0)
        elif node.op_type == "OctreeMlp":
            x, w1, b1, w2, b2 = node.input
            hidden = conv(x, own_rows(x), w1, b1, f"{name}{PART}hidden", "gelu")
            conv(hidden, own_rows(x), w2, b2, node.output[0], "none")
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
