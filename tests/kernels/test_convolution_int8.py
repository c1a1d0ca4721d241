"""Int8 convolutions: the Python function on every instruction set, and the ONNX nodes, against the NumPy twins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zerograsp_edge.kernels.convolution_int8 import PackedInt8, octree_conv_int8
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.reference import convolution as twin

onnx = pytest.importorskip("onnx", reason="building graphs needs the export extra")

from test_ort_nodes import EMPTY, EMPTY_INDEX, EMPTY_TABLE, Graph, features, table, weight  # noqa: E402

Arrays = dict[str, NDArray[Any]]
# Sums are exact; what is left is float32's rounding of scale, bias and activation.
TOLERANCE = 2e-6
SIZES = [0, 1, 300, 7, 129, 0, 2000]


@pytest.fixture(params=["baseline", "avx2"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if not core.set_convolution_isa(request.param):
        pytest.skip(f"this machine or build has no {request.param}")
    yield request.param
    core.set_convolution_isa(None)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ["none", "gelu", "elu", "relu"])
@pytest.mark.parametrize(
    ("taps", "cin", "cout"), [(27, 12, 12), (27, 5, 33), (8, 24, 208), (1, 1, 1), (27, 48, 48)]
)
def test_conv(activation: str, taps: int, cin: int, cout: int) -> None:
    rng = np.random.default_rng(0)
    w, scale = twin.quantize_weight(weight(rng, taps, cin, cout))
    b, x_scale = features(rng, cout), 0.021
    packed = PackedInt8(w, scale, b, x_scale)
    for n in SIZES:
        x, neighbours = features(rng, 2 * n, cin), table(rng, (taps, n), 2 * n)
        y = octree_conv_int8(x, neighbours, packed, activation, threads=2)
        expected = twin.octree_conv_int8(
            twin.quantize(x, x_scale), x_scale, neighbours, w, scale, b, activation
        )
        np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.usefixtures("isa")
def test_sums_are_exact_and_saturate_nowhere() -> None:
    """The largest sum that fits: pairs of the largest products, which an 8-bit multiply-add would clip."""
    cin = 4096
    w = np.full((8, 27, cin), 127, np.int8)
    w[4:] = -127
    packed = PackedInt8(w, np.ones(8, np.float32), np.zeros(8, np.float32), 1.0)
    x = np.full((27, cin), 1e9, np.float32)  # saturates at 127
    y = octree_conv_int8(x, np.arange(27, dtype=np.int32)[:, None], packed)
    expected = float(27 * cin * 127 * 127)
    np.testing.assert_array_equal(y[0], np.float32([expected] * 4 + [-expected] * 4))


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 8, 17, 24]), st.floats(1e-3, 10))
def test_quantisation_is_the_twins(seed: int, cin: int, x_scale: float) -> None:
    """One tap and a unit matrix show the quantised values themselves; ties, saturation, NaN and infinities included."""
    rng = np.random.default_rng(seed)
    x_scale = float(np.float32(x_scale))
    x = (rng.integers(-300, 300, (40, cin)) * np.float32(x_scale) / 2).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[rng.random(x.shape) < 0.02] = np.inf
    w = np.zeros((cin, 1, cin), np.int8)
    w[np.arange(cin), 0, np.arange(cin)] = 1
    packed = PackedInt8(w, np.full(cin, 1 / x_scale, np.float32), np.zeros(cin, np.float32), x_scale)
    y = octree_conv_int8(x, np.arange(40, dtype=np.int32)[None], packed)
    np.testing.assert_array_equal(np.rint(y), twin.quantize(x, x_scale))


def test_python_arguments() -> None:
    w, ones = np.ones((4, 27, 3), np.int8), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="weight: expected a C-contiguous int8 array"):
        PackedInt8(w.astype(np.float32), ones, ones, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scale: expected .*\(4,\)"):
        PackedInt8(w, ones[:3], ones, 1.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="x_scale: expected a positive, finite number"):
            PackedInt8(w, ones, ones, wrong)
    with pytest.raises(ValueError, match="taps \\* cin up to 133144, got 135000"):
        PackedInt8(np.ones((1, 27, 5000), np.int8), ones[:1], ones[:1], 1.0)
    packed = PackedInt8(w, ones, ones, 1.0)
    with pytest.raises(ValueError, match="neighbours: expected rows below 5"):
        octree_conv_int8(np.zeros((5, 3), np.float32), np.full((27, 2), 5, np.int32), packed)


# The ONNX nodes, float32 and float16


def quantised(rng: np.random.Generator, *shape: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    return twin.quantize_weight(weight(rng, *shape))


def assert_close(y: NDArray[Any], expected: NDArray[np.float64], kind: type) -> None:
    assert y.dtype == kind and y.shape == expected.shape
    tolerance = TOLERANCE if kind is np.float32 else 6e-4
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=5 * TOLERANCE)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_conv_node(kind: type) -> None:
    rng = np.random.default_rng(1)
    w, scale = quantised(rng, 27, 13, 26)
    constants = {"weight": w, "weight_scale": scale, "bias": features(rng, 26)}
    inputs = {"x": EMPTY.astype(kind), "neighbours": EMPTY_TABLE, **constants}
    attributes = {"x_scale": 0.025, "activation": "gelu"}
    graph = Graph("OctreeConvInt8", inputs, list(constants), attributes, (kind, 2))
    for n in SIZES:
        x, neighbours = features(rng, 2 * n, 13).astype(kind), table(rng, (27, n), 2 * n)
        expected = twin.octree_conv_int8(
            twin.quantize(x, 0.025), np.float32(0.025), neighbours, w, scale, constants["bias"], "gelu"
        )
        assert_close(graph(x=x, neighbours=neighbours), np.asarray(expected, np.float64), kind)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("cin", [12, 13])
def test_downsample_node(kind: type, cin: int) -> None:
    rng = np.random.default_rng(2)
    w, scale = quantised(rng, 8, cin, 24)
    constants = {"weight": w, "weight_scale": scale, "bias": features(rng, 24)}
    inputs = {"x": EMPTY.astype(kind), "children": EMPTY_INDEX, **constants}
    attributes = {"x_scale": 0.02, "activation": "elu"}
    graph = Graph("OctreeDownsampleInt8", inputs, list(constants), attributes, (kind, 2))
    for n in SIZES:
        split = n // 3
        x, children = features(rng, 8 * split, cin).astype(kind), table(rng, (n,), split)
        expected = twin.octree_downsample_int8(
            twin.quantize(x, 0.02), np.float32(0.02), children, w, scale, constants["bias"], "elu"
        )
        assert_close(graph(x=x, children=children), np.asarray(expected, np.float64), kind)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("skips", [0, 50])
def test_upsample_node(kind: type, skips: int) -> None:
    rng = np.random.default_rng(3)
    w, scale = quantised(rng, 8, 26, 13)
    w = np.ascontiguousarray(w.transpose(1, 0, 2))
    constants = {"weight": w, "weight_scale": scale, "bias": features(rng, 13)}
    inputs = {
        "x": EMPTY.astype(kind), "split_rows": EMPTY_INDEX, **constants,
        "skip": EMPTY.astype(kind), "skip_index": EMPTY_INDEX,
    }  # fmt: skip
    attributes = {"x_scale": 0.02, "activation": "gelu"}
    graph = Graph("OctreeUpsampleInt8", inputs, list(constants), attributes, (kind, 2))
    for split in SIZES:
        x = features(rng, split + 3, 26).astype(kind)
        rows = rng.integers(0, split + 3, split).astype(np.int32)
        skip, index = features(rng, skips, 13).astype(kind), table(rng, (8 * split,), skips)
        expected = twin.octree_upsample_int8(
            twin.quantize(x, 0.02), np.float32(0.02), rows, w, scale, constants["bias"], "gelu", skip, index
        )
        y = graph(x=x, split_rows=rows, skip=skip, skip_index=index)
        assert_close(y, np.asarray(expected, np.float64), kind)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("cin", "hidden", "cout", "projected"), [(24, 6, 24, False), (24, 13, 48, True), (3, 50, 5, True)]
)
def test_residual_node(kind: type, cin: int, hidden: int, cout: int, projected: bool) -> None:
    """Hidden values are quantised again: where a value lies at a tie, kernel and twin may round it apart."""
    rng = np.random.default_rng(4)
    wa, wa_scale = quantised(rng, 1, cin, hidden)
    w3, w3_scale = quantised(rng, 27, hidden, hidden)
    wb, wb_scale = quantised(rng, 1, hidden, cout)
    constants: Arrays = {
        "wa": wa, "wa_scale": wa_scale, "ba": features(rng, hidden),
        "w3": w3, "w3_scale": w3_scale, "b3": features(rng, hidden),
        "wb": wb, "wb_scale": wb_scale, "bb": features(rng, cout),
    }  # fmt: skip
    if projected:
        constants["wc"], constants["wc_scale"] = quantised(rng, 1, cin, cout)
    scales = {"x_scale": 0.025, "first_scale": 0.03, "second_scale": 0.02}
    inputs = {"x": EMPTY.astype(kind), "neighbours": EMPTY_TABLE, **constants}
    graph = Graph("OctreeResidualInt8", inputs, list(constants), scales, (kind, 2))
    single = {name: np.float32(s) for name, s in scales.items()}
    for n in SIZES:
        x, neighbours = features(rng, n, cin).astype(kind), table(rng, (27, n), n)
        expected = np.asarray(
            twin.octree_residual_int8(
                twin.quantize(x, single["x_scale"]), neighbours=neighbours, **single, **constants
            ),
            np.float64,
        )
        y = graph(x=x, neighbours=neighbours)
        assert y.dtype == kind and y.shape == expected.shape
        difference = np.abs(y.astype(np.float64) - expected)
        rounding = 1e-5 if kind is np.float32 else 1e-3 * (1 + np.abs(expected))
        assert n == 0 or (difference <= rounding).mean() > 0.995
        # One step of a hidden value, times the largest weight.
        step = scales["second_scale"] * 127 * wb_scale.max() + scales["first_scale"] * 127 * w3_scale.max()
        assert (difference <= rounding + step).all()


@pytest.mark.parametrize(
    ("changed", "attributes", "message"),
    [
        ({}, {}, "x_scale: expected a positive, finite scale, got 0"),
        ({}, {"x_scale": -1.0}, "x_scale: expected a positive, finite scale"),
        ({"weight": np.zeros((3, 27), np.int8)}, {"x_scale": 1.0}, "input weight: expected rank 3"),
        (
            {"weight_scale": np.ones(2, np.float32)},
            {"x_scale": 1.0},
            "input weight_scale: expected 3 entries, got (2)",
        ),
        ({"bias": np.ones(9, np.float32)}, {"x_scale": 1.0}, "input bias: expected 3 entries, got (9)"),
        ({"weight": np.zeros((1, 27, 5000), np.int8)}, {"x_scale": 1.0}, "taps * cin up to 133144"),
    ],
)
def test_wrong_arguments_of_a_node(changed: Arrays, attributes: dict[str, float], message: str) -> None:
    constants = {
        "weight": np.zeros((3, 27, 4), np.int8),
        "weight_scale": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        **changed,
    }
    inputs = {"x": EMPTY, "neighbours": EMPTY_TABLE, **constants}
    with pytest.raises(Exception, match=re.escape("zerograsp::OctreeConvInt8: ") + ".*" + re.escape(message)):
        Graph("OctreeConvInt8", inputs, list(constants), attributes)
