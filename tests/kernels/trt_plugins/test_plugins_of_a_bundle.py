"""The int8 nodes of an exported bundle, with its weights: the plugin gives what ONNX Runtime's node gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from generators import features, table
from plugin_host import HEADERS, NO_HEADERS, build_and_run, library

from zerograsp_edge import kernels

onnx = pytest.importorskip("onnx", reason="reading a bundle's stages needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `cpu`")

from zerograsp_edge.export.precision import to_half, uncast_weights  # noqa: E402
from zerograsp_edge.export.quantise import activations, quantisable, quantise  # noqa: E402
from zerograsp_edge.runtime.bundle import load_bundle  # noqa: E402
from zerograsp_edge.runtime.models import EDGE_MODEL  # noqa: E402

pytestmark = pytest.mark.skipif(not HEADERS, reason=NO_HEADERS)
NODES = 40  # at the finer depth; five of its parents split
LARGEST = 3.0  # of every activation, standard deviations: a few values saturate


def int8_stage(name: str) -> Any:
    model = onnx.load(str(load_bundle(EDGE_MODEL).stage_path(name)))
    uncast_weights(model)
    layers = quantisable(model, name)
    quantise(model, {v: LARGEST for values in activations(model, layers).values() for v in values}, layers)
    to_half(model, name)
    return model


def inputs_of(
    rng: np.random.Generator, operator: str, constants: list[np.ndarray | None]
) -> list[np.ndarray]:
    """All inputs of a node: its constants, and random features and tables where there is None."""
    weight = constants[2]
    assert weight is not None
    rows = {"OctreeUpsampleInt8": 9, "OctreeDownsampleInt8": NODES}.get(operator, NODES)
    given = {0: features(rng, rows, weight.shape[-1]).astype(np.float16)}
    if operator == "OctreeUpsampleInt8":
        given[1] = rng.integers(0, 9, NODES // 8).astype(np.int32)
        given[5] = features(rng, 30, weight.shape[1]).astype(np.float16)
        given[6] = table(rng, 1, NODES, 30, 0.5)[0]
    elif operator == "OctreeDownsampleInt8":
        given[1] = table(rng, 1, 30, NODES // 8, 0.5)[0]
    else:
        given[1] = table(rng, 27, NODES, NODES, 0.4)
    return [given[i] if constant is None else constant for i, constant in enumerate(constants)]


def on_the_cpu(node: Any, inputs: list[np.ndarray], fed: list[bool]) -> np.ndarray:
    """ONNX Runtime's output of a graph of this one node."""
    helper, named = onnx.helper, [f"i{k}" for k in range(len(inputs))]
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:], alone.output[:]
    alone.input.extend(named)
    alone.output.append("y")

    def info(name: str, dtype: Any, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    inner = [info(n, a.dtype, a.shape) for n, a, is_fed in zip(named, inputs, fed, strict=True) if is_fed]
    held = [
        onnx.numpy_helper.from_array(a, n)
        for n, a, is_fed in zip(named, inputs, fed, strict=True)
        if not is_fed
    ]
    graph = helper.make_graph([alone], "node", inner, [info("y", np.dtype(np.float16), [None, None])], held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(kernels.ort_library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {n: a for n, a, is_fed in zip(named, inputs, fed, strict=True) if is_fed})[0]


@pytest.mark.parametrize("stage", ["octree_encoder", "decoder_5"])
def test_plugins_are_the_cpus_nodes(stage: str) -> None:
    host, rng = library(next(iter(HEADERS))), np.random.default_rng(0)
    model = int8_stage(stage)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type.endswith("Int8")]
    assert len({node.op_type for node in nodes}) >= 2
    for node in nodes:
        constants = [held.get(name) for name in node.input]
        inputs = inputs_of(rng, node.op_type, constants)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        text = {name: v.decode() if isinstance(v, bytes) else v for name, v in attributes.items()}
        y = build_and_run(host, node.op_type, inputs, text)
        expected = on_the_cpu(node, inputs, [c is None for c in constants]).astype(np.float64)
        assert y.dtype == np.float16 and y.shape == expected.shape, node.name
        # Both round once to float16. A hidden value near a tie may differ by a step of int8.
        difference = np.abs(y.astype(np.float64) - expected) / (1 + np.abs(expected))
        assert (difference <= 1.5e-3).mean() > 0.99, (node.name, difference.max())
        assert difference.max() < 0.1, (node.name, difference.max())
