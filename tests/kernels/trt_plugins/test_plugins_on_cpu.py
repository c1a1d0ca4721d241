"""The TensorRT plugins from creator to enqueue, with kernels that run on the CPU, against the NumPy twins."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from cuda_library import SEEDS
from generators import features, key_pairs, random_scene, residual_arguments, table, weights
from hypothesis import given, settings
from plugin_host import (
    CHAR,
    CHW2,
    FLOAT32,
    HEADERS,
    INT32,
    NO_HEADERS,
    Plugin,
    Refused,
    Spec,
    build_and_run,
    library,
)

from zerograsp_edge.kernels.convolution import ACTIVATIONS
from zerograsp_edge.kernels.reference import convolution as twin
from zerograsp_edge.kernels.reference import octree as octree_twin
from zerograsp_edge.kernels.reference.occlusion import occlusion_field
from zerograsp_edge.kernels.tensorrt_plugins import NAMESPACE, PLUGINS, VERSION

pytestmark = pytest.mark.skipif(not HEADERS, reason=NO_HEADERS)

# Half: inputs are exact, a sum is rounded once, inner results of a residual block or a perceptron once more each.
TOLERANCE = {"float32": 2e-5, "float16": 1.5e-3}
FLOATS = sorted(TOLERANCE)
NODES = [0, 1, 127, 130]


@pytest.fixture(scope="module", params=list(HEADERS))
def host(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return library(request.param)


@pytest.fixture(scope="module")
def one_host() -> ctypes.CDLL:
    """Against the oldest version alone: what does not depend on TensorRT."""
    return library(next(iter(HEADERS)))


def cast(dtype: str, *arrays: Any) -> list[Any]:
    return [np.ascontiguousarray(a, dtype) for a in arrays]


def close(dtype: str, got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == dtype and got.shape == expected.shape
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# ---- every node against its twin ----


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_conv(host: ctypes.CDLL, dtype: str, activation: str) -> None:
    rng = np.random.default_rng(0)
    for order, n in zip([*SEEDS, 5], NODES, strict=True):
        host.cuda_on_cpu_seed(order)
        neighbours = table(rng, 27, n, n + 9, 0.4)
        weight, bias = weights(rng, 27, 12, 20)
        x, weight = cast(dtype, features(rng, n + 9, 12), weight)
        y = build_and_run(host, "OctreeConv", [x, neighbours, weight, bias], {"activation": activation})
        close(dtype, y, twin.octree_conv(x, neighbours, weight, bias, activation))


@pytest.mark.parametrize("dtype", FLOATS)
def test_downsample(host: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for n in NODES:
        children = table(rng, 1, n, n // 3, 0.5)[0]
        weight, bias = weights(rng, 8, 13, 26)
        x, weight = cast(dtype, features(rng, 8 * (n // 3), 13), weight)
        y = build_and_run(host, "OctreeDownsample", [x, children, weight, bias], {"activation": "gelu"})
        close(dtype, y, twin.octree_downsample(x, children, weight, bias, "gelu"))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("skips", [0, 50])
def test_upsample(host: ctypes.CDLL, dtype: str, skips: int) -> None:
    rng = np.random.default_rng(2)
    for n in (0, 1, 20):
        rows = rng.integers(0, n + 3, n).astype(np.int32)
        weight, bias = weights(rng, 8, 26, 16)
        x, weight, skip = cast(dtype, features(rng, n + 3, 26), weight, features(rng, skips, 16))
        index = table(rng, 1, 8 * n, skips, 0.5)[0]
        y = build_and_run(host, "OctreeUpsample", [x, rows, weight, bias, skip, index], {"activation": "elu"})
        close(dtype, y, twin.octree_upsample(x, rows, weight, bias, "elu", skip, index))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("projected", [False, True])
def test_residual(host: ctypes.CDLL, dtype: str, projected: bool) -> None:
    rng = np.random.default_rng(3)
    for n in NODES:
        cout = 40 if projected else 24
        wa, ba, w3, b3, wb, bb, wc = residual_arguments(rng, 24, 6, cout, projected)
        x, wa, w3, wb = cast(dtype, features(rng, n, 24), wa, w3, wb)
        neighbours = table(rng, 27, n, n, 0.3)
        inputs = [x, neighbours, wa, ba, w3, b3, wb, bb]
        if projected:
            (wc,) = cast(dtype, wc)
            inputs.append(wc)
        # Twice the nodes at the profile's maximum: the workspace is that of the larger, the launch that of the smaller.
        largest = [(2 * n, 24), (27, 2 * n), *(a.shape for a in inputs[2:])]
        y = build_and_run(host, "OctreeResidual", inputs, largest=largest)
        close(dtype, y, twin.octree_residual(x, neighbours, wa, ba, w3, b3, wb, bb, wc if projected else None))


@pytest.mark.parametrize("dtype", FLOATS)
def test_mlp(host: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(4)
    for n in NODES:
        (w1, b1), (w2, b2) = weights(rng, 1, 24, 32), weights(rng, 1, 32, 2)
        x, w1, w2 = cast(dtype, features(rng, n, 24), w1, w2)
        close(dtype, build_and_run(host, "OctreeMlp", [x, w1, b1, w2, b2]), twin.octree_mlp(x, w1, b1, w2, b2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_grid_conv(host: ctypes.CDLL, dtype: str, with_residual: bool) -> None:
    rng = np.random.default_rng(5)
    for grids, r in ((3, 4), (0, 2), (2, 1)):
        weight, bias = weights(rng, 27, 2, 8)
        x, weight, residual = cast(dtype, features(rng, grids, r, r, r, 2), weight, features(rng, grids, r, r, r, 8))
        inputs = [x, weight, bias, residual] if with_residual else [x, weight, bias]
        y = build_and_run(host, "GridConv", inputs, {"activation": "elu", "resolution": r})
        close(dtype, y, twin.grid_conv(x, weight, bias, "elu", residual if with_residual else None))


# ---- int8: x is quantised by the plugin ----

SCALE = float(np.float32(0.02))  # x is near 1; beyond 2.54 it is held


def quantised(rng: np.random.Generator, taps: int, cin: int, cout: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight (cout, taps, cin), its scales, and a bias."""
    weight, bias = weights(rng, taps, cin, cout)
    return *twin.quantize_weight(weight), bias


def unusual(rng: np.random.Generator, dtype: str, rows: int, columns: int) -> np.ndarray:
    """Features with ties, values beyond the range, infinities and NaN."""
    x = features(rng, rows, columns)
    ties = rng.random(x.shape) < 0.1
    x[ties] = (rng.integers(-130, 130, ties.sum()) + 0.5) * SCALE
    for value in (np.nan, np.inf, -np.inf, 1e4):
        x[rng.random(x.shape) < 0.01] = value
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("cin", [12, 13])
def test_conv_int8(host: ctypes.CDLL, dtype: str, activation: str, cin: int) -> None:
    rng = np.random.default_rng(9)
    for order, n in zip([*SEEDS, 5], NODES, strict=True):
        host.cuda_on_cpu_seed(order)
        x, neighbours = unusual(rng, dtype, n + 9, cin), table(rng, 27, n, n + 9, 0.4)
        weight, scale, bias = quantised(rng, 27, cin, 20)
        attributes = {"activation": activation, "x_scale": SCALE}
        # Twice the rows at the profile's maximum: the workspace is that of the larger.
        largest = [(2 * n + 18, cin), (27, 2 * n), *(a.shape for a in (weight, scale, bias))]
        y = build_and_run(host, "OctreeConvInt8", [x, neighbours, weight, scale, bias], attributes, largest)
        expected = twin.octree_conv_int8(twin.quantize(x, SCALE), SCALE, neighbours, weight, scale, bias, activation)
        close(dtype, y, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_downsample_int8(host: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(10)
    for n in NODES:
        x, children = unusual(rng, dtype, 8 * (n // 3), 13), table(rng, 1, n, n // 3, 0.5)[0]
        weight, scale, bias = quantised(rng, 8, 13, 26)
        attributes = {"activation": "gelu", "x_scale": SCALE}
        y = build_and_run(host, "OctreeDownsampleInt8", [x, children, weight, scale, bias], attributes)
        expected = twin.octree_downsample_int8(twin.quantize(x, SCALE), SCALE, children, weight, scale, bias, "gelu")
        close(dtype, y, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("skips", [0, 50])
def test_upsample_int8(host: ctypes.CDLL, dtype: str, skips: int) -> None:
    rng = np.random.default_rng(11)
    for n in (0, 1, 20):
        x, rows = unusual(rng, dtype, n + 3, 26), rng.integers(0, n + 3, n).astype(np.int32)
        weight, scale, bias = quantised(rng, 8, 26, 16)
        weight = np.ascontiguousarray(weight.transpose(1, 0, 2))  # a child's outputs lie together
        (skip,) = cast(dtype, features(rng, skips, 16))
        index = table(rng, 1, 8 * n, skips, 0.5)[0]
        inputs = [x, rows, weight, scale, bias, skip, index]
        y = build_and_run(host, "OctreeUpsampleInt8", inputs, {"activation": "elu", "x_scale": SCALE})
        expected = twin.octree_upsample_int8(
            twin.quantize(x, SCALE), SCALE, rows, weight, scale, bias, "elu", skip, index
        )
        close(dtype, y, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("projected", [False, True])
def test_residual_int8(host: ctypes.CDLL, dtype: str, projected: bool) -> None:
    """Hidden values are quantised again: where one lies at a tie, kernel and twin may round it apart."""
    rng = np.random.default_rng(12)
    scales = {name: float(np.float32(s)) for name, s in (("first_scale", 0.03), ("second_scale", 0.02))}
    for n in NODES:
        cout = 40 if projected else 24
        (wa, sa, ba), (w3, s3, b3), (wb, sb, bb) = (quantised(rng, *s) for s in ((1, 24, 6), (27, 6, 6), (1, 6, cout)))
        block = [wa, sa, ba, w3, s3, b3, wb, sb, bb]
        if projected:
            block += quantised(rng, 1, 24, cout)[:2]
        x, neighbours = unusual(rng, dtype, n, 24), table(rng, 27, n, n, 0.3)
        largest = [(2 * n, 24), (27, 2 * n), *(a.shape for a in block)]
        attributes = {"x_scale": SCALE, **scales}
        y = build_and_run(host, "OctreeResidualInt8", [x, neighbours, *block], attributes, largest)
        expected = np.asarray(
            twin.octree_residual_int8(
                twin.quantize(x, SCALE), SCALE, neighbours, wa, sa, ba, scales["first_scale"], w3, s3, b3,
                scales["second_scale"], wb, sb, bb, *block[9:],
            ),
            np.float64,
        )  # fmt: skip
        assert y.dtype == dtype and y.shape == expected.shape
        difference = np.abs(y.astype(np.float64) - expected)
        rounding = TOLERANCE[dtype] * (1 + np.abs(expected))
        assert n == 0 or (difference <= rounding).mean() > 0.995
        # One step of a hidden value, times the largest weight.
        step = 127 * (scales["second_scale"] * sb.max() + scales["first_scale"] * s3.max())
        assert (difference <= rounding + step).all()


@pytest.mark.parametrize("with_rank", [False, True])
def test_neighbour(host: ctypes.CDLL, with_rank: bool) -> None:
    rng = np.random.default_rng(6)
    for splits in (0, 1, 40):
        split_neighbours = np.ascontiguousarray(table(rng, 27, splits, splits, 0.5).T)
        rank = table(rng, 1, 8 * splits, 5, 0.7)[0]
        inputs = [split_neighbours, rank] if with_rank else [split_neighbours]
        y = build_and_run(host, "OctreeNeighbor", inputs)
        expected = octree_twin.expand_neighbours(split_neighbours, rank if with_rank else None)
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, expected)


@settings(max_examples=10, deadline=None)
@given(key_pairs())
def test_align(one_host: ctypes.CDLL, keys: tuple[np.ndarray, np.ndarray]) -> None:
    y = build_and_run(one_host, "OctreeAlign", list(keys))
    np.testing.assert_array_equal(y, octree_twin.align(*keys))


def test_align_with_every_version(host: ctypes.CDLL) -> None:
    source, target = np.array([1, 5, 9, 1 << 48], np.int64), np.array([5, 6, 1 << 48], np.int64)
    assert build_and_run(host, "OctreeAlign", [source, target]).tolist() == [1, -1, 3]


@pytest.mark.parametrize("resolution", [3, 4])
def test_occlusion(host: ctypes.CDLL, resolution: int) -> None:
    for seed, nodes in enumerate((3, 0, 2)):
        scene = random_scene(seed, nodes=nodes, resolution=resolution)
        inputs = [
            scene["centres"], scene["object_index"], scene["depth"], scene["labels"], scene["adjacency"] != 0,
            scene["intrinsics"],
        ]  # fmt: skip
        y = build_and_run(host, "OcclusionField", inputs, {"edge": scene["edge"], "resolution": resolution})
        np.testing.assert_array_equal(y, occlusion_field(**scene))


# ---- what TensorRT may ask at any time ----


def test_creators(host: ctypes.CDLL) -> None:
    lines = [line.split(" ") for line in host.host_creators().decode().splitlines()]
    assert sorted(line[0] for line in lines) == sorted(PLUGINS)
    assert all(line[1:3] == [VERSION, NAMESPACE] for line in lines)
    fields = {line[0]: line[3] for line in lines}
    assert fields["GridConv"] == f"activation:{CHAR}:0,resolution:{INT32}:1"
    assert fields["OcclusionField"] == f"edge:{FLOAT32}:1,resolution:{INT32}:1"
    assert fields["OctreeUpsampleInt8"] == f"activation:{CHAR}:0,x_scale:{FLOAT32}:1"
    assert fields["OctreeResidualInt8"] == ",".join(f"{name}:{FLOAT32}:1" for name in SCALES)
    assert fields["OctreeResidual"] == ""


def test_an_engine_can_name_its_plugins(host: ctypes.CDLL) -> None:
    for plugin in (
        Plugin.create(host, "OcclusionField", {"edge": 80.0, "resolution": 8}),
        Plugin.create(host, "OcclusionField", {"edge": 80.0, "resolution": 8}).reload(),
    ):
        text = "OcclusionField edge=80 resolution=8"
        assert plugin.describe() == ["OcclusionField", VERSION, NAMESPACE, "1", text, text]
        plugin.destroy()
    scales = {"x_scale": 0.125, "first_scale": 0.5, "second_scale": 0.3}
    for name, attributes, text in (
        ("OctreeConvInt8", {"activation": "elu", "x_scale": 0.125}, "activation=elu x_scale=0.125"),
        ("OctreeResidualInt8", scales, "x_scale=0.125 first_scale=0.5 second_scale=0.300000012"),
    ):
        stored = Plugin.create(host, name, attributes).reload()
        assert stored.describe()[4] == f"{name} {text}"
        stored.destroy()
    gelu = Plugin.create(host, "OctreeConv", {"activation": "gelu"}).reload().reload()
    assert gelu.describe()[4] == "OctreeConv activation=gelu"
    gelu.destroy()


SCALES = {"x_scale": 0.5, "first_scale": 0.25, "second_scale": 0.125}
RESIDUAL_INT8 = ["N, 8", "27, N", "2, 1, 8", "2", "2", "2, 27, 2", "2", "2", "8, 1, 2", "8", "8"]
SHAPES = [
    ("OctreeNeighbor", {}, ["S, 27"], "27, 8*S"),
    ("OctreeNeighbor", {}, ["S, 27", "N"], "27, 8*S"),
    ("OctreeNeighbor", {}, ["5, 27", "40"], "27, 40"),
    ("OctreeConv", {}, ["M, 12", "27, N", "27, 12, 20", "20"], "N, 20"),
    ("OctreeConvInt8", {"x_scale": 0.5}, ["M, 12", "27, N", "20, 27, 12", "20", "20"], "N, 20"),
    ("OctreeDownsampleInt8", {"x_scale": 0.5}, ["M, 12", "N", "20, 8, 12", "20", "20"], "N, 20"),
    ("OctreeUpsampleInt8", {"x_scale": 0.5}, ["R, 12", "S", "8, 20, 12", "20", "20", "M, 20", "N"], "8*S, 20"),
    ("OctreeResidualInt8", SCALES, RESIDUAL_INT8, "N, 8"),
    ("OctreeResidualInt8", SCALES, [*RESIDUAL_INT8[:8], "9, 1, 2", "9", "9", "9, 1, 8", "9"], "N, 9"),
    ("OctreeDownsample", {}, ["M, 12", "N", "8, 12, 20", "20"], "N, 20"),
    ("OctreeUpsample", {}, ["R, 12", "S", "8, 12, 20", "20", "M, 20", "N"], "8*S, 20"),
    ("OctreeResidual", {}, ["N, 8", "27, N", "1, 8, 2", "2", "27, 2, 2", "2", "1, 2, 8", "8"], "N, 8"),
    ("OctreeResidual", {}, ["N, 8", "27, Q", "1, 8, 2", "2", "27, 2, 2", "2", "1, 2, 9", "9", "1, 8, 9"], "N, 9"),
    ("OctreeMlp", {}, ["N, 8", "1, 8, 2", "2", "1, 2, 16", "16"], "N, 16"),
    ("GridConv", {"resolution": 4}, ["N, 4, 4, 4, 2", "27, 2, 8", "8"], "N, 4, 4, 4, 8"),
    ("OctreeAlign", {}, ["M", "N"], "N"),
    ("OcclusionField", {"edge": 80.0, "resolution": 8}, ["N, 3", "N", "H, W", "H, W", "B, B", "3, 3"], "N, 2, 8, 8, 8"),
]


@pytest.mark.parametrize(("name", "attributes", "inputs", "output"), SHAPES)
def test_dynamic_shapes(host: ctypes.CDLL, name: str, attributes: Any, inputs: list[str], output: str) -> None:
    plugin = Plugin.create(host, name, attributes)
    assert plugin.shape(inputs) == output
    plugin.destroy()


def test_only_linear_layouts_and_their_own_types(one_host: ctypes.CDLL) -> None:
    """Every combination of types at every position: those of the table in kernels/README.md, and no others."""
    plugin = Plugin.create(one_host, "OctreeConv", {"activation": "none"})
    shapes = [(5, 4), (27, 3), (27, 4, 6), (6,), (3, 6)]
    for feature in ("float32", "float16"):
        types = [feature, "int32", feature, "float32", feature]
        fitting = [Spec(t, s) for t, s in zip(types, shapes, strict=True)]
        for position, spec in enumerate(fitting):
            for dtype in ("float32", "float16", "int8", "int32", "bool", "int64"):
                changed = [*fitting[:position], Spec(dtype, spec.shape), *fitting[position + 1 :]]
                allowed = dtype == spec.dtype or (position == 0 and dtype in FLOATS)
                assert plugin.supports(position, changed) == allowed, (position, dtype)
            vectorised = Spec(spec.dtype, spec.shape, format=CHW2)
            assert not plugin.supports(position, [*fitting[:position], vectorised, *fitting[position + 1 :]])
    plugin.destroy()


def test_the_workspace_is_that_of_the_largest_inputs(one_host: ctypes.CDLL) -> None:
    shapes = [(10, 8), (1, 8, 4), (4,), (1, 4, 2), (2,), (10, 2)]
    types = ["float16", "float16", "float32", "float16", "float32", "float16"]
    plugin = Plugin.create(one_host, "OctreeMlp")
    for most in (10, 1000):
        tensors = [Spec(t, s, (most, *s[1:]) if s[0] == 10 else None) for t, s in zip(types, shapes, strict=True)]
        assert plugin.workspace(tensors) == -(-most * 4 * 2 // 256) * 256
    plugin.destroy()


def test_an_engine_may_run_twice_at_once_and_again_with_other_shapes(one_host: ctypes.CDLL) -> None:
    """Contexts share no state: each clone launches what its own shapes say."""
    rng = np.random.default_rng(7)
    weight, bias = weights(rng, 27, 4, 6)
    built = Plugin.create(one_host, "OctreeConv", {"activation": "relu"})
    contexts = [built.attach(), built.attach()]
    built.destroy()
    for n in (40, 3, 90):
        for context in contexts:
            x, neighbours = features(rng, n, 4), table(rng, 27, n, n, 0.5)
            y = np.empty((n, 6), np.float32)
            context.shapes_change([Spec.of(a) for a in (x, neighbours, weight, bias, y)])
            context.enqueue([x, neighbours, weight, bias], y, np.empty(0, np.uint8))
            close("float32", y, twin.octree_conv(x, neighbours, weight, bias, "relu"))
    for context in contexts:
        context.destroy()


def test_inputs_of_anything_stay_inside_their_buffers(one_host: ctypes.CDLL) -> None:
    """A builder times layers with inputs of its own making: random bytes in every input. The sanitizers' run of these
    tests sees every access."""
    rng = np.random.default_rng(8)

    def anything(dtype: str, *shape: int) -> np.ndarray:
        raw = rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.frombuffer(raw, np.uint8).view(dtype) if dtype != "bool" else np.frombuffer(raw, np.uint8) > 127
        return array.reshape(shape).copy()

    def run(name: str, inputs: list[np.ndarray], **attributes: Any) -> None:
        build_and_run(one_host, name, inputs, attributes)

    n, f = 130, "float32"
    for h in FLOATS:
        eight, bias = anything(h, 8, 12, 6), anything(f, 6)
        run("OctreeConv", [anything(h, 50, 12), anything("int32", 27, n), anything(h, 27, 12, 6), bias])
        run("OctreeDownsample", [anything(h, 50, 12), anything("int32", n), eight, bias])
        skip = anything(h, 9, 6), anything("int32", 8 * n)
        run("OctreeUpsample", [anything(h, 50, 12), anything("int32", n), eight, bias, *skip])
        block = [anything(t, *s) for t, s in ((h, (1, 12, 3)), (f, (3,)), (h, (27, 3, 3)), (f, (3,)), (h, (1, 3, 12)))]
        run("OctreeResidual", [anything(h, n, 12), anything("int32", 27, n), *block, anything(f, 12)])
        x, ends = anything(h, 50, 12), [anything(f, 6), anything(f, 6)]
        run("OctreeConvInt8", [x, anything("int32", 27, n), anything("int8", 6, 27, 12), *ends], x_scale=0.5)
        run("OctreeDownsampleInt8", [x, anything("int32", n), anything("int8", 6, 8, 12), *ends], x_scale=0.5)
        run("OctreeUpsampleInt8", [x, anything("int32", n), anything("int8", 8, 6, 12), *ends, *skip], x_scale=0.5)
        block = [anything(t, *s) for s, c in (((3, 1, 12), 3), ((3, 27, 3), 3), ((12, 1, 3), 12))
                 for t, s in (("int8", s), (f, (c,)), (f, (c,)))]  # fmt: skip
        run("OctreeResidualInt8", [anything(h, n, 12), anything("int32", 27, n), *block], **SCALES)
    run("OctreeNeighbor", [anything("int32", n, 27), anything("int32", 8 * n)])
    run("OctreeAlign", [anything("int64", n), anything("int64", n)])
    scene = [(f, n, 3), ("int32", n), (f, 30, 40), ("int32", 30, 40), ("bool", 3, 3), (f, 3, 3)]
    run("OcclusionField", [anything(dtype, *shape) for dtype, *shape in scene], edge=80.0, resolution=4)


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("OctreeConv", {"activation": "swish"}, "attribute activation: expected none, gelu, elu or relu, got 'swish'"),
        ("OctreeConv", [("activation", INT32, 1)], "attribute activation: expected a string, got field type 5"),
        ("OctreeConv", {"activation": "none", "stride": 2}, "attribute stride: the node has none of this name"),
        ("GridConv", {"activation": "elu", "resolution": 33}, "attribute resolution: expected 1 to 32, got 33"),
        ("GridConv", {"activation": "elu", "resolution": 0}, "attribute resolution: expected 1 to 32, got 0"),
        ("GridConv", {"activation": "elu"}, "attribute resolution: expected 1 to 32, it is missing"),
        ("GridConv", [("resolution", INT32, [1, 2])], "attribute resolution: expected one int32, got 2 of field type"),
        ("OcclusionField", {"edge": 80, "resolution": 8}, "attribute edge: expected one float32, got 1 of field type"),
        ("OcclusionField", {"edge": -1.0, "resolution": 8}, "attribute edge: expected a length in mm above 0, got -1"),
        ("OcclusionField", {"edge": float("nan"), "resolution": 8}, "attribute edge: expected a length in mm above 0"),
        ("OcclusionField", {"resolution": 8}, "attribute edge: expected a length in mm, it is missing"),
        ("OctreeConvInt8", {"activation": "none"}, "attribute x_scale: expected a scale, it is missing"),
        ("OctreeConvInt8", {"x_scale": -0.5}, "attribute x_scale: expected a scale above 0, got -0.5"),
        ("OctreeConvInt8", SCALES, "attribute first_scale: the node has none of this name"),
        ("OctreeResidualInt8", {"x_scale": 0.5, "first_scale": 0.5}, "attribute second_scale: expected a scale, it is"),
        ("OctreeResidualInt8", {**SCALES, "activation": "elu"}, "attribute activation: the node has none of this"),
    ],
)
def test_wrong_attributes(host: ctypes.CDLL, name: str, fields: Any, message: str) -> None:
    with pytest.raises(Refused) as told:
        Plugin.create(host, name, fields)
    assert str(told.value).startswith(f"error: zerograsp::{name}: {message}")


def test_a_conv_without_activation_has_none_and_versions_are_no_attributes(one_host: ctypes.CDLL) -> None:
    plugin = Plugin.create(one_host, "OctreeConv", {"plugin_version": "1", "plugin_namespace": "zerograsp"})
    assert plugin.describe()[4] == "OctreeConv activation=none"
    plugin.destroy()


CONV = ["float32", "int32", "float32", "float32"]
RESIDUAL = ["N, 8", "27, N", "1, 8, 2", "2", "27, 2, 2", "2", "1, 2, 8", "8"]


@pytest.mark.parametrize(
    ("name", "attributes", "types", "message"),
    [
        ("OctreeConv", {}, ["int32", *CONV[1:]], "input x: expected float32 or float16, got int32"),
        ("OctreeConv", {}, ["float32", "int64", *CONV[2:]], "input neighbours: expected int32, got int64"),
        ("OctreeConv", {}, [*CONV[:2], "float16", "float32"],
         "input weight: expected float32, as the first input is, got float16"),
        ("OctreeConv", {}, ["float16", "int32", "float16", "float16"], "input bias: expected float32, got float16"),
        ("OctreeConvInt8", {"x_scale": 0.5}, ["int8", "int32", "int8", "float32", "float32"],
         "input x: expected float32 or float16, got int8"),
        ("OctreeConvInt8", {"x_scale": 0.5}, ["float16", "int32", "float16", "float32", "float32"],
         "input weight: expected int8, got float16"),
        ("OctreeConvInt8", {"x_scale": 0.5}, ["float16", "int32", "int8", "float16", "float32"],
         "input weight_scale: expected float32, got float16"),
        ("OctreeResidualInt8", SCALES, ["float32", "int32", *["int8", "float32", "float32"] * 3, "int8"],
         "expected the inputs (x, neighbours, wa, wa_scale, ba, w3, w3_scale, b3, wb, wb_scale, bb, [wc], "
         "[wc_scale]), got 12 of them"),
        ("OctreeConv", {}, CONV[:3], "expected the inputs (x, neighbours, weight, bias), got 3 of them"),
        ("OctreeNeighbor", {}, ["int32"] * 3, "expected the inputs (split_neighbours, [rank]), got 3 of them"),
        ("OctreeAlign", {}, ["int64", "int32"], "input target_keys: expected int64, got int32"),
        (
            "OcclusionField", {"edge": 80.0, "resolution": 8},
            ["float32", "int32", "float32", "int32", "uint8", "float32"],
            "input adjacency: expected bool, got uint8",
        ),
        (
            "OcclusionField", {"edge": 80.0, "resolution": 8},
            ["float16", "int32", "float32", "int32", "bool", "float32"],
            "input centres: expected float32, got float16",
        ),
    ],
)  # fmt: skip
def test_wrong_types(host: ctypes.CDLL, name: str, attributes: Any, types: list[str], message: str) -> None:
    plugin = Plugin.create(host, name, attributes)
    with pytest.raises(Refused) as told:
        plugin.type(types)
    assert str(told.value) == f"error: zerograsp::{name}: {message}\n"
    plugin.destroy()


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "message"),
    [
        ("OctreeConv", {}, ["1, M, 12", "27, N", "27, 12, 20", "20"], "input x: expected (M, Cin), got (1, ?, 12)"),
        ("OctreeConv", {}, ["M, 12", "27, N", "27, 13, 20", "20"],
         "input weight: expected (K, Cin, Cout) = (27, 12, Cout), got (27, 13, 20)"),
        ("OctreeConv", {}, ["M, 12", "8, N", "27, 12, 20", "20"],
         "input weight: expected (K, Cin, Cout) = (8, 12, Cout), got (27, 12, 20)"),
        ("OctreeConv", {}, ["M, 12", "27, N", "27, 12, 20", "21"], "input bias: expected (Cout,) = (20,), got (21,)"),
        ("OctreeNeighbor", {}, ["S, 26"], "input split_neighbours: expected (S, 27), got (?, 26)"),
        ("OctreeNeighbor", {}, ["5, 27", "41"], "input rank: expected (8S,) = (40,), got (41,)"),
        ("OctreeResidual", {}, [*RESIDUAL[:6], "1, 2, 9", "9"],
         "input wb: expected (1, H, Co) = (1, 2, 8), got (1, 2, 9)"),
        ("OctreeResidual", {}, ["N, 8", "8, N", *RESIDUAL[2:]], "input neighbours: expected (27, N), got (8, ?)"),
        ("OctreeResidual", {}, [*RESIDUAL[:6], "1, 2, 9", "9", "1, 8, 7"],
         "input wc: expected (1, C, Co) = (1, 8, 9), got (1, 8, 7)"),
        ("OctreeUpsampleInt8", {"x_scale": 0.5}, ["R, 12", "S", "8, 12, 20", "20", "20", "M, 20", "N"],
         "input weight: expected (8, Cout, Cin) = (8, Cout, 12), got (8, 12, 20)"),
        ("OctreeResidualInt8", SCALES, [*RESIDUAL_INT8[:8], "9, 1, 2", "9", "9"],
         "input wb: expected (Co, 1, H) = (8, 1, 2), got (9, 1, 2)"),
        ("GridConv", {"resolution": 4}, ["N, 4, 4, 3, 2", "27, 2, 8", "8"],
         "input x: expected (N, r, r, r, Cin) = (N, 4, 4, 4, Cin), got (?, 4, 4, 3, 2)"),
        ("OctreeAlign", {}, ["M, 1", "N"], "input source_keys: expected (M,), got (?, 1)"),
    ],
)  # fmt: skip
def test_wrong_shapes(host: ctypes.CDLL, name: str, attributes: Any, inputs: list[str], message: str) -> None:
    plugin = Plugin.create(host, name, attributes)
    with pytest.raises(Refused) as told:
        plugin.shape(inputs)
    assert str(told.value) == f"error: zerograsp::{name}: {message}\n"
    plugin.destroy()


def test_a_profile_or_a_frame_whose_shapes_contradict_each_other(host: ctypes.CDLL) -> None:
    """What a network's names of dimensions do not say: N is 8 S. A profile is refused, and so is a frame."""
    shapes = [(9, 4), (5,), (8, 4, 6), (6,), (7, 6), (41,), (40, 6)]
    types = ["float32", "int32", "float32", "float32", "float32", "int32", "float32"]
    tensors = [Spec(t, s) for t, s in zip(types, shapes, strict=True)]
    plugin = Plugin.create(host, "OctreeUpsample", {"activation": "gelu"})
    for ask in (plugin.configure, plugin.shapes_change):
        with pytest.raises(Refused, match=r"input skip_index: expected \(8S,\) = \(40,\), got \(41,\)"):
            ask(tensors)
    tensors[5] = Spec("int32", (40,))
    plugin.configure(tensors)
    tensors[6] = Spec("float32", (41, 6))
    with pytest.raises(Refused, match=r"output y: expected \(8S, Cout\) = \(40, 6\), got \(41, 6\)"):
        plugin.shapes_change(tensors)
    plugin.destroy()


def test_what_a_kernel_says_reaches_the_log(host: ctypes.CDLL) -> None:
    """A launcher's own limits: more taps than it holds."""
    plugin = Plugin.create(host, "OctreeConv", {"activation": "none"})
    x, neighbours = np.zeros((3, 2), np.float32), np.zeros((28, 3), np.int32)
    weight, bias, y = np.zeros((28, 2, 4), np.float32), np.zeros(4, np.float32), np.zeros((3, 4), np.float32)
    plugin.shapes_change([Spec.of(a) for a in (x, neighbours, weight, bias, y)])
    with pytest.raises(Refused, match=r"^error: zerograsp::OctreeConv: taps: expected 1 to 27, got 28"):
        plugin.enqueue([x, neighbours, weight, bias], y, np.empty(0, np.uint8))
    plugin.destroy()


def test_errors_go_to_stderr_without_a_logger(one_host: ctypes.CDLL, capfd: pytest.CaptureFixture[str]) -> None:
    one_host.host_use_logger(0)
    with pytest.raises(Refused):
        Plugin.create(one_host, "OctreeConv", {"activation": "swish"})
    assert "zerograsp::OctreeConv: attribute activation" in capfd.readouterr().err


def test_the_library_names_the_version_of_its_headers() -> None:
    for version in HEADERS:
        major, minor, patch = map(int, version.split("."))
        assert library(version).zg_tensorrt_version() == 10000 * major + 100 * minor + patch
