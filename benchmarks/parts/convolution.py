"""Figures of the octree convolution for `benchmarks/kernels.py`: beside ocnn and ONNX Runtime.

All three convolve the same features over the same octree, in one process, with the same number of threads,
taking turns; each figure is the best of its runs, and the results are compared before anything is timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ocnn
import onnx
import onnxruntime
import torch
from harness import figure
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from zerograsp_edge.kernels import build_octree, expand_neighbours
from zerograsp_edge.kernels.native import core

ASKED_SPEEDUP = 15.0
OCNN, GATHER = "ocnn OctreeConv (PyTorch)", "ONNX Runtime, Gather and MatMul"
DEPTH, FULL_DEPTH = 9, 3
LAYERS = {9: 12, 8: 24, 7: 48, 6: 96}  # depth -> channels, as in the decoder
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A 3x3x3 convolution over all nodes of one depth."""

    depth: int
    x: Features  # (N, C)
    neighbours: NDArray[np.int32]  # (27, N)
    weight: Features  # (27, C, C)
    bias: Features  # (C,)


def spheres(count: int, samples: int, radius: float) -> Features:
    """(count * samples, 3) points on spheres in the cube: surfaces at the scale of objects on a table."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(radius - 0.9, 0.9 - radius, (count, 1, 3))
    directions = rng.standard_normal((count, samples, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return (centres + radius * directions).reshape(-1, 3).astype(np.float32)


def layers(points: Features) -> list[Layer]:
    octree = build_octree(points, np.array([len(points)], np.int32), DEPTH, FULL_DEPTH)
    rng = np.random.default_rng(1)
    result = []
    for depth, channels in LAYERS.items():
        neighbours = expand_neighbours(octree.split_neighbours[depth - 1])
        weight = rng.standard_normal((27, channels, channels)) / np.sqrt(27 * channels)
        x, bias = rng.standard_normal((neighbours.shape[1], channels)), rng.standard_normal(channels)
        arrays = (x.astype(np.float32), neighbours, weight.astype(np.float32), bias.astype(np.float32))
        result.append(Layer(depth, *arrays))
    return result


def native(layer: Layer, threads: int) -> Callable[[], Features]:
    # What a node of a graph calls: packed weights, and a table that is right by construction. The checks of
    # `kernels.octree_conv` belong to its Python face.
    weight, out = core.PackedWeight(layer.weight, layer.bias), np.empty_like(layer.x)

    def run() -> Features:
        core.octree_conv(layer.x, layer.neighbours, weight, 0, out, threads)
        return out

    return run


def ocnn_peer(layer: Layer, octree: ocnn.octree.Octree) -> Callable[[], Features]:
    channels = layer.x.shape[1]
    module = ocnn.nn.OctreeConv(channels, channels, kernel_size=[3], nempty=False, use_bias=True).eval()
    with torch.no_grad():
        module.weights.copy_(torch.from_numpy(layer.weight))
        module.bias.copy_(torch.from_numpy(layer.bias))
    x = torch.from_numpy(layer.x)

    def run() -> Features:
        with torch.inference_mode():
            return module(x, octree, layer.depth).numpy()

    return run


def gather_peer(layer: Layer, threads: int) -> Callable[[], Features]:
    """The convolution in standard ONNX: a row of zeros stands for the missing neighbours."""
    count, channels = layer.x.shape
    constants = {
        "zero_row": np.zeros((1, channels), np.float32),
        "shape": np.array([-1, 27 * channels]),
        "weight": layer.weight.reshape(-1, channels),
        "bias": layer.bias,
    }
    nodes = [
        helper.make_node("Concat", ["x", "zero_row"], ["rows"], axis=0),
        helper.make_node("Gather", ["rows", "neighbours"], ["gathered"]),
        helper.make_node("Reshape", ["gathered", "shape"], ["columns"]),
        helper.make_node("MatMul", ["columns", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gather_matmul",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, channels]),
            helper.make_tensor_value_info("neighbours", TensorProto.INT32, [None, 27]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, channels])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads must not slow the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    table = np.ascontiguousarray(np.where(layer.neighbours < 0, count, layer.neighbours).T)
    return lambda: session.run(None, {"x": layer.x, "neighbours": table})[0]


def figures(quick: bool) -> list[dict[str, Any]]:
    """Milliseconds per layer and the speed-up over each peer."""
    points = spheres(2, 4000, 0.06) if quick else spheres(6, 20000, 0.09)
    peer_octree = ocnn.octree.Octree(DEPTH, FULL_DEPTH)
    peer_octree.build_octree(ocnn.octree.Points(torch.from_numpy(points)))
    peer_octree.construct_all_neigh()
    torch_threads = torch.get_num_threads()
    rows = []
    try:
        for threads in sorted({1, min(2, os.cpu_count() or 1)}):
            torch.set_num_threads(threads)
            for layer in layers(points):
                rows += _layer_figures(layer, peer_octree, threads, quick)
    finally:
        torch.set_num_threads(torch_threads)
    return rows


def _layer_figures(
    layer: Layer, octree: ocnn.octree.Octree, threads: int, quick: bool
) -> list[dict[str, Any]]:
    count, channels = layer.x.shape
    plural = "s" if threads > 1 else ""
    label = f"octree convolution 3x3x3, {channels} channels, {count} nodes, {threads} thread{plural}"
    ours = native(layer, threads)
    peers = {OCNN: ocnn_peer(layer, octree), GATHER: gather_peer(layer, threads)}
    for name, peer in peers.items():
        difference = float(np.abs(peer() - ours()).max())
        if not difference < 1e-4:
            raise RuntimeError(f"{label}: {name} differs from the native kernel by {difference}")

    best = dict.fromkeys(["ours", *peers], float("inf"))
    for _ in range(3 if quick else 5):
        for name, call in (("ours", ours), *peers.items()):
            time.sleep(0.02)  # until the threads of the one before have stopped spinning
            best[name] = min(best[name], *(_milliseconds(call) for _ in range(3)))
    rows = [figure(f"{label}: time", best["ours"], "ms", "lower", None, OCNN, best[OCNN])]
    for name, asked in ((OCNN, ASKED_SPEEDUP), (GATHER, None)):
        speed_up = best[name] / best["ours"]
        rows.append(figure(f"{label}: speed-up over {name}", speed_up, "x", "higher", asked, name, 1.0))
    return rows


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
