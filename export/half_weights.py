"""Weights stored in half precision, computed with in single: half the size on disk, the graph otherwise unchanged.

Executors fold the casts away when they load a graph, so nothing is slower. A weight moves by at most 2^-11 of its
value, and moves in the network already, so that a bundle's reference outputs are those of the very weights it holds.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from zerograsp_edge.export.network.zerograsp import ZeroGrasp

_SMALLEST = 1024  # values; smaller tensors are not worth a node
_SUFFIX = "_half"

# Which dimension of a layer's weight counts its outputs.
_OUTPUT_DIMENSION = {"OctreeConv": 2, "OctreeDeconv": 1, "Conv1x1": 0, "Linear": 0}


def rounded_to_half(network: ZeroGrasp) -> ZeroGrasp:
    """The same network with BatchNorm folded into the layers before it, and their weights rounded to half precision.

    The BatchNorms stay, as identities with a shift. For inference only.

    Args:
        network: in eval mode, on the CPU; left as it is.
    """
    network = deepcopy(network)
    with torch.no_grad():
        for block in network.modules():
            norm = getattr(block, "bn", None)
            if isinstance(norm, nn.BatchNorm1d):
                _fold(block, norm)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    return network.eval()


def _fold(block: nn.Module, norm: nn.BatchNorm1d) -> None:
    """The scale of `block`'s BatchNorm goes into the weight of its layer, mean and bias into the BatchNorm's bias."""
    layer = next(m for m in block.children() if type(m).__name__ in _OUTPUT_DIMENSION)
    (weight,) = layer.parameters()
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    shape = [1] * weight.ndim
    shape[_OUTPUT_DIMENSION[type(layer).__name__]] = -1
    weight.copy_(weight.double() * scale.reshape(shape))
    norm.weight.fill_(1.0)
    norm.bias.copy_(shift)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - norm.eps)


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
            raise ValueError(
                f"{name}: expected weights up to 65504, got {largest:g}; store this network in float32"
            )
        graph.initializer[i].CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        casts.append(
            helper.make_node("Cast", [name + _SUFFIX], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
