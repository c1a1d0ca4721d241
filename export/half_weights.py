"""Weights stored in half precision, computed with in single: half the size on disk, the graph otherwise unchanged.

Executors fold the casts away when they load a graph, so nothing is slower; a weight moves by at most 2^-11 of its value.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 1024  # values; smaller tensors are not worth a node
_SUFFIX = "_half"


def store_half(model: onnx.ModelProto) -> None:
    """Replaces every large float32 initialiser by a float16 one and a cast, in place.

    Raises:
        ValueError: a weight is too large for float16 (65504).
    """
    graph = model.graph
    casts = []
    for i, initialiser in enumerate(graph.initializer):
        if initialiser.data_type != TensorProto.FLOAT or int(np.prod(initialiser.dims)) < _SMALLEST:
            continue
        name, values = initialiser.name, numpy_helper.to_array(initialiser)
        largest = float(np.abs(values).max())
        if not largest <= np.finfo(np.float16).max:
            raise ValueError(f"{name}: expected weights up to 65504, got {largest:g}; store this network in float32")
        graph.initializer[i].CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        casts.append(
            helper.make_node("Cast", [name + _SUFFIX], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
