"""The nodes of the ONNX domain `zerograsp`, each in a graph of its own, against the NumPy twins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from zerograsp_edge.kernels import ort_library
from zerograsp_edge.kernels.convolution import ACTIVATIONS
from zerograsp_edge.kernels.reference import convolution as twin
from zerograsp_edge.kernels.reference import octree as octree_twin
from zerograsp_edge.kernels.reference.occlusion import occlusion_field

onnx = pytest.importorskip("onnx", reason="building graphs needs the export extra")

Arrays = dict[str, NDArray[Any]]
TOLERANCE = 2e-5
SIZES = [0, 1, 300, 7, 129, 0, 128]  # nodes of consecutive runs of one session: it must grow and shrink


class Graph:
    """A session that runs one node.

    Args:
        op: the node's type.
        inputs: name -> example of the array; "" as a name leaves an optional input out.
        constants: the names among `inputs` that are initialisers with the example as their value.
        attributes: of the node.
        output: dtype and rank.
    """

    def __init__(
        self,
        op: str,
        inputs: Mapping[str, NDArray[Any] | None],
        constants: Sequence[str] = (),
        attributes: dict[str, Any] | None = None,
        output: tuple[type, int] = (np.float32, 2),
        threads: int = 2,
    ) -> None:
        helper = onnx.helper
        node = helper.make_node(
            op,
            [name if array is not None else "" for name, array in inputs.items()],
            ["y"],
            name="the_node",
            domain="zerograsp",
            plugin_version="1",
            plugin_namespace="zerograsp",
            **(attributes or {}),
        )
        given = {name: array for name, array in inputs.items() if array is not None}
        graph = helper.make_graph(
            [node],
            "one_node",
            [_tensor(n, a.dtype, a.ndim) for n, a in given.items() if n not in constants],
            [_tensor("y", np.dtype(output[0]), output[1])],
            [onnx.numpy_helper.from_array(given[name], name) for name in constants],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(ort_library()))
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, **inputs: NDArray[Any]) -> NDArray[Any]:
        return self.session.run(["y"], inputs)[0]


def _tensor(name: str, dtype: Any, rank: int) -> Any:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, element, [None] * rank)


def features(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def weight(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def table(
    rng: np.random.Generator, shape: tuple[int, ...], rows: int, present: float = 0.5
) -> NDArray[np.int32]:
    indices = rng.integers(0, max(rows, 1), shape)
    return np.where((rng.random(shape) < present) & (rows > 0), indices, -1).astype(np.int32)


EMPTY = np.zeros((0, 0), np.float32)
EMPTY_TABLE, EMPTY_INDEX = np.zeros((0, 0), np.int32), np.zeros(0, np.int32)


def conv_graph(w: NDArray[np.float32], b: NDArray[np.float32], activation: str = "none") -> Graph:
    return Graph(
        "OctreeConv",
        {"x": EMPTY, "neighbours": EMPTY_TABLE, "weight": w, "bias": b},
        ["weight", "bias"],
        {"activation": activation},
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("taps", "cin", "cout"), [(27, 12, 12), (27, 5, 33), (8, 24, 208), (1, 1, 1)])
def test_conv(activation: str, taps: int, cin: int, cout: int) -> None:
    rng = np.random.default_rng(0)
    w, b = weight(rng, taps, cin, cout), features(rng, cout)
    graph = conv_graph(w, b, activation)
    for nodes in SIZES:
        x, neighbours = features(rng, 2 * nodes, cin), table(rng, (taps, nodes), 2 * nodes)
        y = graph(x=x, neighbours=neighbours)
        assert y.shape == (nodes, cout)
        np.testing.assert_allclose(
            y, twin.octree_conv(x, neighbours, w, b, activation), rtol=TOLERANCE, atol=TOLERANCE
        )


def test_conv_without_activation_attribute_has_none() -> None:
    rng = np.random.default_rng(1)
    w, b = weight(rng, 1, 4, 3), features(rng, 3)
    inputs = {"x": EMPTY, "neighbours": EMPTY_TABLE, "weight": w, "bias": b}
    x, rows = features(rng, 9, 4), np.arange(9, dtype=np.int32)[None]
    y = Graph("OctreeConv", inputs, ["weight", "bias"])(x=x, neighbours=rows)
    np.testing.assert_allclose(y, twin.octree_conv(x, rows, w, b), rtol=TOLERANCE, atol=TOLERANCE)


def test_weights_may_come_from_constant_nodes() -> None:
    """Exporters write either; ONNX Runtime makes initialisers of them."""
    rng = np.random.default_rng(2)
    w, b = weight(rng, 27, 4, 3), features(rng, 3)
    helper = onnx.helper
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))
        for name, array in (("w", w), ("b", b))
    ]
    nodes.append(helper.make_node("OctreeConv", ["x", "neighbours", "w", "b"], ["y"], domain="zerograsp"))
    inputs = [_tensor("x", np.float32, 2), _tensor("neighbours", np.int32, 2)]
    graph = helper.make_graph(nodes, "constants", inputs, [_tensor("y", np.float32, 2)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(ort_library()))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x, neighbours = features(rng, 30, 4), table(rng, (27, 30), 30)
    (y,) = session.run(None, {"x": x, "neighbours": neighbours})
    np.testing.assert_allclose(y, twin.octree_conv(x, neighbours, w, b), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_downsample(activation: str) -> None:
    rng = np.random.default_rng(3)
    w, b = weight(rng, 8, 13, 26), features(rng, 26)
    inputs = {"x": EMPTY, "children": EMPTY_INDEX, "weight": w, "bias": b}
    graph = Graph("OctreeDownsample", inputs, ["weight", "bias"], {"activation": activation})
    for nodes in SIZES:
        split = nodes // 3
        x, children = features(rng, 8 * split, 13), table(rng, (nodes,), split)
        expected = twin.octree_downsample(x, children, w, b, activation)
        np.testing.assert_allclose(graph(x=x, children=children), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("skips", [0, 50])
def test_upsample(activation: str, skips: int) -> None:
    rng = np.random.default_rng(4)
    w, b = weight(rng, 8, 26, 13), features(rng, 13)
    inputs = {
        "x": EMPTY, "split_rows": EMPTY_INDEX, "weight": w, "bias": b,
        "skip": EMPTY, "skip_index": EMPTY_INDEX,
    }  # fmt: skip
    graph = Graph("OctreeUpsample", inputs, ["weight", "bias"], {"activation": activation})
    for split in SIZES:
        x, rows = features(rng, split + 3, 26), rng.integers(0, split + 3, split).astype(np.int32)
        skip, index = features(rng, skips, 13), table(rng, (8 * split,), skips)
        y = graph(x=x, split_rows=rows, skip=skip, skip_index=index)
        np.testing.assert_allclose(
            y, twin.octree_upsample(x, rows, w, b, activation, skip, index), rtol=TOLERANCE, atol=TOLERANCE
        )


def residual_weights(
    rng: np.random.Generator, cin: int, hidden: int, cout: int, projected: bool
) -> dict[str, NDArray[np.float32]]:
    arrays = {
        "wa": weight(rng, 1, cin, hidden),
        "ba": features(rng, hidden),
        "w3": weight(rng, 27, hidden, hidden),
        "b3": features(rng, hidden),
        "wb": weight(rng, 1, hidden, cout),
        "bb": features(rng, cout),
    }
    return {**arrays, "wc": weight(rng, 1, cin, cout)} if projected else arrays


@pytest.mark.parametrize(
    ("cin", "hidden", "cout", "projected"),
    [(24, 6, 24, False), (24, 13, 48, True), (3, 50, 5, True), (208, 52, 208, False)],
)
def test_residual(cin: int, hidden: int, cout: int, projected: bool) -> None:
    rng = np.random.default_rng(5)
    arrays = residual_weights(rng, cin, hidden, cout, projected)
    graph = Graph("OctreeResidual", {"x": EMPTY, "neighbours": EMPTY_TABLE, **arrays}, list(arrays))
    for nodes in SIZES:
        x, neighbours = features(rng, nodes, cin), table(rng, (27, nodes), nodes)
        expected = twin.octree_residual(x, neighbours, **arrays)
        np.testing.assert_allclose(
            graph(x=x, neighbours=neighbours), expected, rtol=TOLERANCE, atol=TOLERANCE
        )


def test_mlp() -> None:
    rng = np.random.default_rng(6)
    arrays = {
        "w1": weight(rng, 1, 12, 32),
        "b1": features(rng, 32),
        "w2": weight(rng, 1, 32, 2),
        "b2": features(rng, 2),
    }
    graph = Graph("OctreeMlp", {"x": EMPTY, **arrays}, list(arrays))
    for nodes in SIZES:
        x = features(rng, nodes, 12)
        np.testing.assert_allclose(graph(x=x), twin.octree_mlp(x, **arrays), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("resolution", [1, 2, 4, 8])
@pytest.mark.parametrize("with_residual", [False, True])
def test_grid_conv(resolution: int, with_residual: bool) -> None:
    rng = np.random.default_rng(7)
    w, b = weight(rng, 27, 2, 16), features(rng, 16)
    empty = np.zeros((0,) * 5, np.float32)
    inputs = {"x": empty, "weight": w, "bias": b, **({"residual": empty} if with_residual else {})}
    attributes = {"activation": "gelu", "resolution": resolution}
    graph = Graph("GridConv", inputs, ["weight", "bias"], attributes, (np.float32, 5))
    for grids in (3, 0, 40, 1):
        x, residual = features(rng, grids, *[resolution] * 3, 2), features(rng, grids, *[resolution] * 3, 16)
        y = graph(x=x, **({"residual": residual} if with_residual else {}))
        expected = twin.grid_conv(x, w, b, "gelu", residual if with_residual else None)
        np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("with_rank", [False, True])
def test_neighbour(with_rank: bool) -> None:
    rng = np.random.default_rng(8)
    inputs = {"split_neighbours": EMPTY_TABLE, "rank": EMPTY_INDEX if with_rank else None}
    graph = Graph("OctreeNeighbor", inputs, output=(np.int32, 2))
    for split in SIZES:
        split_neighbours = table(rng, (split, 27), split)
        rank = table(rng, (8 * split,), 5) if with_rank else None
        y = graph(split_neighbours=split_neighbours, **({"rank": rank} if rank is not None else {}))
        assert y.shape == (27, 8 * split)
        np.testing.assert_array_equal(y, octree_twin.expand_neighbours(split_neighbours, rank))


def test_align() -> None:
    rng = np.random.default_rng(9)
    empty = np.zeros(0, np.int64)
    graph = Graph("OctreeAlign", {"source_keys": empty, "target_keys": empty}, output=(np.int32, 1))
    for source, target in [(0, 0), (300, 500), (0, 20), (20, 0), (7, 3), (400, 400)]:
        universe = np.concatenate([np.arange(600), (1 << 48) + np.arange(600)])
        source_keys, target_keys = (np.sort(rng.choice(universe, n, replace=False)) for n in (source, target))
        y = graph(source_keys=source_keys, target_keys=target_keys)
        np.testing.assert_array_equal(y, octree_twin.align(source_keys, target_keys))


def occlusion_scene(seed: int, nodes: int) -> Arrays:
    """Blocks of labels on a noisy wall, cubes around it; no reference to the rules, only to the domain."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(-1, 3, (4, 5)), np.ones((8, 8), int)).astype(np.int32)
    depth = (450 + rng.normal(0, 20, labels.shape)).astype(np.float32)
    z = rng.uniform(350, 600, nodes)
    centres = np.column_stack([rng.uniform(-0.4, 0.4, (nodes, 2)) * z[:, None], z]).astype(np.float32)
    return {
        "centres": centres,
        "object": rng.integers(0, 3, nodes).astype(np.int32),
        "depth": depth,
        "labels": labels,
        "adjacency": np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool),
        "intrinsics": np.array([[40, 0, 20], [0, 42, 16], [0, 0, 1]], np.float32),
    }


def occlusion_graph(edge: float = 80.0, resolution: int = 4) -> Graph:
    attributes = {"edge": edge, "resolution": resolution}
    return Graph("OcclusionField", {**occlusion_scene(0, 1)}, (), attributes, (np.float32, 5))


def occlusion_expected(scene: Arrays, edge: float, resolution: int) -> NDArray[np.float32]:
    arguments = {**scene, "adjacency": scene["adjacency"].astype(np.uint8)}
    return occlusion_field(
        object_index=arguments.pop("object"), edge=edge, resolution=resolution, **arguments
    )


@pytest.mark.parametrize(("edge", "resolution"), [(80.0, 4), (55.0, 3), (80.0, 6)])
def test_occlusion_field(edge: float, resolution: int) -> None:
    graph = occlusion_graph(edge, resolution)
    for seed, nodes in enumerate([2, 0, 5, 1]):
        scene = occlusion_scene(seed, nodes)
        y = graph(**scene)
        assert y.shape == (nodes, 2, *[resolution] * 3)
        np.testing.assert_array_equal(y, occlusion_expected(scene, edge, resolution))
        assert nodes < 2 or (y[:, 0].any() and not y.all())


# One session may be run by several threads, and ONNX Runtime's own threads share the work.


def test_sessions_run_from_several_threads() -> None:
    rng = np.random.default_rng(10)
    arrays = residual_weights(rng, 12, 6, 12, False)
    residual = Graph("OctreeResidual", {"x": EMPTY, "neighbours": EMPTY_TABLE, **arrays}, list(arrays))
    occlusion = occlusion_graph()
    frames = [(features(rng, n, 12), table(rng, (27, n), n)) for n in (40, 500, 900, 3) for _ in range(4)]
    scenes = [occlusion_scene(seed, 3 + 7 * (seed % 3)) for seed in range(16)]
    alone = [residual(x=x, neighbours=t) for x, t in frames], [occlusion(**scene) for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = (
            list(pool.map(lambda frame: residual(x=frame[0], neighbours=frame[1]), frames * 4)),
            list(pool.map(lambda scene: occlusion(**scene), scenes * 4)),
        )
    for expected, got in zip(alone, together, strict=True):
        for i, y in enumerate(got):
            np.testing.assert_array_equal(y, expected[i % len(expected)])


def test_threads_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(11)
    w, b = weight(rng, 27, 24, 24), features(rng, 24)
    x, neighbours = features(rng, 3000, 24), table(rng, (27, 3000), 3000)
    inputs = {"x": EMPTY, "neighbours": EMPTY_TABLE, "weight": w, "bias": b}
    results = [
        Graph("OctreeConv", inputs, ["weight", "bias"], {"activation": "gelu"}, threads=threads)(
            x=x, neighbours=neighbours
        )
        for threads in (1, 2, 4)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# Errors. When a session is made:


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


CONV = {"x": EMPTY, "neighbours": EMPTY_TABLE, "weight": zeros(27, 4, 3), "bias": zeros(3)}
DOWN = {"x": EMPTY, "children": EMPTY_INDEX, "weight": zeros(8, 4, 3), "bias": zeros(3)}
UP = {
    "x": EMPTY, "split_rows": EMPTY_INDEX, "weight": zeros(8, 4, 3), "bias": zeros(3), "skip": EMPTY,
    "skip_index": EMPTY_INDEX,
}  # fmt: skip
RESIDUAL = {
    "x": EMPTY, "neighbours": EMPTY_TABLE, "wa": zeros(1, 4, 2), "ba": zeros(2), "w3": zeros(27, 2, 2),
    "b3": zeros(2), "wb": zeros(1, 2, 4), "bb": zeros(4), "wc": zeros(1, 4, 4),
}  # fmt: skip
MLP = {"x": EMPTY, "w1": zeros(1, 4, 6), "b1": zeros(6), "w2": zeros(1, 6, 2), "b2": zeros(2)}
GRID = {"x": zeros(*[0] * 5), "weight": zeros(27, 4, 3), "bias": zeros(3)}
NODES: dict[str, tuple[Arrays, int]] = {
    "OctreeConv": (CONV, 2), "OctreeDownsample": (DOWN, 2), "OctreeUpsample": (UP, 2),
    "OctreeResidual": (RESIDUAL, 2), "OctreeMlp": (MLP, 2), "GridConv": (GRID, 5),
}  # fmt: skip
CONSTANTS = ["weight", "bias", "wa", "ba", "w3", "b3", "wb", "bb", "wc", "w1", "b1", "w2", "b2"]
EACH_CONSTANT = [(op, name) for op, (inputs, _) in NODES.items() for name in inputs if name in CONSTANTS]


def make(
    op: str,
    attributes: dict[str, Any] | None = None,
    variable: str | None = None,
    changed: dict[str, Any] | None = None,
) -> Graph:
    """The node with valid arguments, but for `changed`; the input `variable` is no initialiser."""
    inputs, rank = NODES[op]
    inputs = {**inputs, **(changed or {})}
    constants = [name for name in inputs if name in CONSTANTS and name != variable]
    return Graph(op, inputs, constants, attributes, (np.float32, rank))


@pytest.mark.parametrize(("op", "name"), EACH_CONSTANT)
def test_weights_must_be_constant(op: str, name: str) -> None:
    with pytest.raises(Exception, match=f"zerograsp::{op}: input {name} must be an initialiser"):
        make(op, variable=name)


@pytest.mark.parametrize(("op", "name"), EACH_CONSTANT)
def test_weights_of_wrong_rank(op: str, name: str) -> None:
    array = NODES[op][0][name]
    with pytest.raises(Exception, match=f"zerograsp::{op}: input {name}: expected rank {array.ndim}, got "):
        make(op, changed={name: array[None]})


@pytest.mark.parametrize(
    ("op", "name"), [pair for pair in EACH_CONSTANT if pair[1] in ("bias", "ba", "b3", "bb", "b1", "b2")]
)
def test_biases_of_wrong_length(op: str, name: str) -> None:
    array = NODES[op][0][name]
    with pytest.raises(
        Exception, match=rf"zerograsp::{op}: input {name}: expected {len(array)} entries, got \(9\)"
    ):
        make(op, changed={name: zeros(9)})


@pytest.mark.parametrize(
    ("op", "changed", "message"),
    [
        ("OctreeDownsample", {"weight": zeros(27, 4, 3)}, "input weight: expected (8, cin, cout)"),
        ("OctreeUpsample", {"weight": zeros(1, 4, 3)}, "input weight: expected (8, cin, cout)"),
        ("OctreeConv", {"weight": zeros(27, 0, 3)}, "input weight: expected (taps, cin, cout)"),
        (
            "OctreeConv",
            {"weight": zeros(1, 1, 3073), "bias": zeros(3073)},
            "with cout up to 3072, got (1, 1, 3073)",
        ),
        ("GridConv", {"weight": zeros(8, 4, 3)}, "input weight: expected (27, cin, cout)"),
        ("OctreeResidual", {"wa": zeros(27, 4, 2)}, "input wa: expected (1, cin, cout)"),
        ("OctreeResidual", {"wb": zeros(2, 2, 4)}, "input wb: expected (1, cin, cout)"),
        ("OctreeResidual", {"wc": zeros(2, 4, 4)}, "input wc: expected (1, cin, cout)"),
        ("OctreeResidual", {"w3": zeros(27, 3, 2)}, "wa, w3, wb and wc do not form a residual block"),
        ("OctreeResidual", {"w3": zeros(27, 2, 9), "b3": zeros(9)}, "do not form a residual block"),
        ("OctreeResidual", {"wc": zeros(1, 4, 5)}, "do not form a residual block"),
        ("OctreeMlp", {"w2": zeros(1, 5, 2)}, "input w2: expected w1's 6 outputs as inputs, got 5"),
    ],
)
def test_weights_of_wrong_shape(op: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"zerograsp::{op}: ") + ".*" + re.escape(message)):
        make(op, changed=changed)


@pytest.mark.parametrize("resolution", [0, -8, 33, 1 << 40])
def test_grid_resolution(resolution: int) -> None:
    with pytest.raises(
        Exception, match=f"zerograsp::GridConv: resolution: expected 1 to 32, got {resolution}"
    ):
        make("GridConv", {"resolution": resolution})


@pytest.mark.parametrize("op", ["OctreeConv", "OctreeDownsample", "OctreeUpsample", "GridConv"])
def test_unknown_activation(op: str) -> None:
    with pytest.raises(
        Exception, match=f"zerograsp::{op}: activation: expected none, gelu, elu or relu, got tanh"
    ):
        make(op, {"activation": "tanh"})


# When a session runs:


def rows(*shape: int) -> NDArray[np.int32]:
    return np.zeros(shape, np.int32)


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (
            "OctreeConv",
            {"x": zeros(5, 3), "neighbours": rows(27, 5)},
            "input x: expected 4 columns, got (5, 3)",
        ),
        (
            "OctreeConv",
            {"x": zeros(5, 4), "neighbours": rows(5, 27)},
            "input neighbours: expected 27 taps, got (5, 27)",
        ),
        (
            "OctreeDownsample",
            {"x": zeros(8, 5), "children": rows(3)},
            "input x: expected 4 columns, got (8, 5)",
        ),
        (
            "OctreeUpsample",
            {"x": zeros(5, 3), "split_rows": rows(2), "skip": zeros(1, 3), "skip_index": rows(16)},
            "input x: expected 4 columns, got (5, 3)",
        ),
        (
            "OctreeUpsample",
            {"x": zeros(5, 4), "split_rows": rows(2), "skip": zeros(1, 4), "skip_index": rows(16)},
            "input skip: expected 3 columns, got (1, 4)",
        ),
        (
            "OctreeUpsample",
            {"x": zeros(5, 4), "split_rows": rows(2), "skip": zeros(1, 3), "skip_index": rows(2)},
            "input skip_index: expected 16 entries, got (2)",
        ),
        (
            "OctreeResidual",
            {"x": zeros(5, 3), "neighbours": rows(27, 5)},
            "input x: expected 4 columns, got (5, 3)",
        ),
        (
            "OctreeResidual",
            {"x": zeros(5, 4), "neighbours": rows(27, 6)},
            "input neighbours: expected (27, 5), got (27, 6)",
        ),
        ("OctreeMlp", {"x": zeros(5, 3)}, "input x: expected 4 columns, got (5, 3)"),
        (
            "GridConv",
            {"x": zeros(2, 4, 4, 4, 4)},
            "input x: expected (N, r, r, r, 4) with r = 8, got (2, 4, 4, 4, 4)",
        ),
    ],
)
def test_inputs_of_wrong_shape(op: str, inputs: Arrays, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"zerograsp::{op}: {message}")):
        make(op)(**inputs)


@pytest.mark.parametrize("grids", [0, 3])
def test_grid_residual_of_wrong_shape(grids: int) -> None:
    """An empty residual is wrong too, not absent."""
    graph = make("GridConv", {"resolution": 2}, changed={"residual": zeros(*[0] * 5)})
    with pytest.raises(
        Exception, match=r"zerograsp::GridConv: input residual: expected \(2, 2, 2, 2, 3\), got "
    ):
        graph(x=zeros(2, 2, 2, 2, 4), residual=zeros(grids, 2, 2, 2, 3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"split_neighbours": rows(4, 26), "rank": rows(32)},
            "input split_neighbours: expected 27 columns, got (4, 26)",
        ),
        ({"split_neighbours": rows(4, 27), "rank": rows(4)}, "input rank: expected 32 entries, got (4)"),
        ({"split_neighbours": rows(4, 27), "rank": rows(0)}, "input rank: expected 32 entries, got (0)"),
    ],
)
def test_neighbour_inputs_of_wrong_shape(changed: Arrays, message: str) -> None:
    graph = Graph(
        "OctreeNeighbor", {"split_neighbours": EMPTY_TABLE, "rank": EMPTY_INDEX}, output=(np.int32, 2)
    )
    with pytest.raises(Exception, match=re.escape(f"zerograsp::OctreeNeighbor: {message}")):
        graph(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"centres": zeros(3, 2)}, "input centres: expected 3 columns, got (3, 2)"),
        ({"object": rows(2)}, "input object: expected 3 entries, got (2)"),
        ({"labels": rows(3, 3)}, "input labels: expected the depth image's shape (32, 40), got (3, 3)"),
        ({"adjacency": np.zeros((3, 2), bool)}, "input adjacency: expected a square, got (3, 2)"),
        ({"intrinsics": zeros(3, 4)}, "input intrinsics: expected (3, 3), got (3, 4)"),
        ({"object": np.full(3, 7, np.int32)}, "input object: expected 0 to the number of objects - 1"),
        (
            {"labels": np.full((32, 40), 7, np.int32)},
            "input labels: expected -1 to the number of objects - 1",
        ),
    ],
)
def test_occlusion_inputs_of_wrong_shape_or_range(changed: Arrays, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"zerograsp::OcclusionField: {message}")):
        occlusion_graph()(**{**occlusion_scene(0, 3), **changed})


def test_inputs_of_wrong_rank() -> None:
    """ONNX Runtime checks ranks that a graph declares; a graph may leave them open."""
    helper = onnx.helper
    node = helper.make_node("OctreeAlign", ["source_keys", "target_keys"], ["y"], domain="zerograsp")
    element = onnx.TensorProto.INT64
    inputs = [helper.make_tensor_value_info(name, element, None) for name in ("source_keys", "target_keys")]
    graph = helper.make_graph([node], "open", inputs, [_tensor("y", np.int32, 1)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(ort_library()))
    options.log_severity_level = 4
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    keys = np.arange(4)
    with pytest.raises(
        Exception, match=r"zerograsp::OctreeAlign: input target_keys: expected rank 1, got \(2, 2\)"
    ):
        session.run(None, {"source_keys": keys, "target_keys": keys.reshape(2, 2)})
