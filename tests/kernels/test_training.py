"""The training kernels, with every instruction set of this machine, against their NumPy twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zerograsp_edge.kernels.convolution import PackedWeight, grid_conv, octree_conv, octree_linear
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.octree import build_octree, expand_neighbours, split_neighbours
from zerograsp_edge.kernels.reference import convolution as convolution_twin
from zerograsp_edge.kernels.reference import training as twin
from zerograsp_edge.kernels.training import (
    batch_statistics,
    conv_weight_gradient,
    gather_rows,
    grid_weight_gradient,
    normalise,
    normalise_gradient,
)
from zerograsp_edge.kernels.workspace import Workspace

Floats = NDArray[np.float32]

CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([24, 32, 48, 96, 129]))
ROWS = st.one_of(st.sampled_from([0, 1, 2, 127, 128, 129]), st.integers(0, 300), st.integers(4000, 4200))
PRESENT = st.sampled_from([0.0, 0.03, 0.4, 1.0])
SEED = st.integers(0, 2**32 - 1)
ACTIVATION = st.sampled_from(["none", "gelu", "elu", "relu"])
PROPERTY = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with this instruction set."""
    if not core.set_convolution_isa(request.param):
        pytest.skip(f"this machine or this build has no {request.param}")
    yield request.param
    core.set_convolution_isa(None)


def features(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def close(got: Floats, expected: NDArray[np.float64], terms: int = 1) -> None:
    """Up to the rounding of a sum of so many terms of size 1."""
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * math.sqrt(max(terms, 1)))


@given(SEED, st.integers(1, 300), ROWS, st.sampled_from([1, 8, 27]), CHANNELS, CHANNELS, PRESENT)
@PROPERTY
def test_weight_gradient(
    isa: str, seed: int, rows: int, nodes: int, taps: int, cin: int, cout: int, present: float
) -> None:
    rng = np.random.default_rng(seed)
    x, dy = features(rng, rows, cin), features(rng, nodes, cout)
    table = np.where(rng.random((taps, nodes)) < present, rng.integers(0, rows, (taps, nodes)), -1).astype(
        np.int32
    )
    one, two = (conv_weight_gradient(x, table, dy, threads=t) for t in (1, 2))
    close(one, twin.conv_weight_gradient(x, table, dy), nodes)
    np.testing.assert_array_equal(one, two)


@given(SEED, ROWS, CHANNELS, CHANNELS)
@PROPERTY
def test_weight_gradient_of_a_dense_layer(isa: str, seed: int, rows: int, cin: int, cout: int) -> None:
    rng = np.random.default_rng(seed)
    x, dy = features(rng, rows, cin), features(rng, rows, cout)
    close(conv_weight_gradient(x, None, dy), twin.conv_weight_gradient(x, None, dy), rows)


def test_weight_gradient_shares_many_rows_between_accumulators(isa: str) -> None:
    """More rows than all chunks start with, of a width that needs padding, and with a workspace used before."""
    rng = np.random.default_rng(0)
    x, dy, workspace = features(rng, 30_000, 6), features(rng, 30_001, 7), Workspace()
    table = rng.integers(-1, len(x), (27, len(dy))).astype(np.int32)
    conv_weight_gradient(x, table, dy, workspace=workspace)
    got = [conv_weight_gradient(x, table, dy, workspace=workspace, threads=t) for t in (1, 2, 3)]
    close(got[0], twin.conv_weight_gradient(x, table, dy), len(dy))
    for other in got[1:]:
        np.testing.assert_array_equal(got[0], other)


@pytest.mark.parametrize("resolution", [1, 2, 3, 4, 8])
@given(SEED, st.integers(0, 5), st.booleans(), st.integers(1, 20), st.integers(1, 20))
@settings(PROPERTY, max_examples=15)
def test_grid_weight_gradient(
    isa: str, resolution: int, seed: int, grids: int, many: bool, cin: int, cout: int
) -> None:
    grids = grids * 40 if many and resolution < 4 else grids  # several tables of small grids
    rng = np.random.default_rng(seed)
    x, dy = (features(rng, grids, *[resolution] * 3, c) for c in (cin, cout))
    close(grid_weight_gradient(x, dy), twin.grid_weight_gradient(x, dy), grids * resolution**3)


def octree_table(rng: np.random.Generator, points: int = 300) -> NDArray[np.int32]:
    """Neighbours at depth 5 of two octrees of clustered points."""
    cloud = np.clip(rng.normal(0.1, 0.2, (2 * points, 3)), -0.99, 0.99).astype(np.float32)
    octree = build_octree(cloud, np.array([points, points], np.int32), 5, 2)
    return expand_neighbours(octree.split_neighbours[4])


@given(SEED, st.integers(1, 20), st.integers(1, 20))
@settings(PROPERTY, max_examples=10)
def test_mirrored_weight_gives_the_gradient_of_the_input(isa: str, seed: int, cin: int, cout: int) -> None:
    """<dy, conv(x)> = <dx, x> for every x: dx is the adjoint of the convolution."""
    rng = np.random.default_rng(seed)
    table = octree_table(rng)
    x, dy = features(rng, table.shape[1], cin), features(rng, table.shape[1], cout)
    weight = features(rng, 27, cin, cout)
    y = convolution_twin.octree_conv(x, table, weight, np.zeros(cout, np.float32))
    dx = octree_conv(dy, table, PackedWeight.mirrored(weight))
    expected = np.zeros((len(x), cin))
    for rows, tap in zip(table, weight.astype(np.float64), strict=True):
        np.add.at(expected, rows[rows >= 0], dy[rows >= 0] @ tap.T)
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-3)
    assert (dy * y).sum() == pytest.approx((dx.astype(np.float64) * x).sum(), rel=1e-3, abs=0.5)


def test_mirrored_weight_serves_grids(isa: str) -> None:
    rng = np.random.default_rng(0)
    weight, dy = features(rng, 27, 3, 5), features(rng, 4, 4, 4, 4, 5)
    mirrored = np.ascontiguousarray(weight[::-1].transpose(0, 2, 1))
    expected = convolution_twin.grid_conv(dy, mirrored, np.zeros(3, np.float32))
    np.testing.assert_allclose(grid_conv(dy, PackedWeight.mirrored(weight)), expected, rtol=1e-4, atol=1e-4)


@given(SEED, ROWS, CHANNELS, CHANNELS, ACTIVATION)
@PROPERTY
def test_linear(isa: str, seed: int, rows: int, cin: int, cout: int, act: str) -> None:
    rng = np.random.default_rng(seed)
    x, bias = features(rng, rows, cin), features(rng, cout)
    weight = features(rng, 1, cin, cout) / np.float32(math.sqrt(cin))
    y = octree_linear(x, PackedWeight(weight, bias), act)
    np.testing.assert_allclose(y, convolution_twin.octree_linear(x, weight, bias, act), rtol=2e-5, atol=2e-5)


SOME = st.one_of(st.integers(1, 9), st.sampled_from([127, 512, 513]), st.integers(1, 3000))


@given(SEED, SOME, CHANNELS, st.sampled_from([0.0, 100.0]))
@PROPERTY
def test_statistics(isa: str, seed: int, rows: int, channels: int, offset: float) -> None:
    """Also where the mean is a hundred deviations: sums of squares would lose the variance."""
    rng = np.random.default_rng(seed)
    x = features(rng, rows, channels) + np.float32(offset)
    mean, variance = batch_statistics(x, threads=2)
    expected = twin.batch_statistics(x)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(variance, expected[1], rtol=2e-4 if offset else 1e-5, atol=1e-9)
    np.testing.assert_array_equal(variance, batch_statistics(x, threads=1)[1])


@given(SEED, SOME, CHANNELS, ACTIVATION, st.booleans())
@PROPERTY
def test_normalisation_and_its_gradient(
    isa: str, seed: int, rows: int, channels: int, act: str, add: bool
) -> None:
    rng = np.random.default_rng(seed)
    x, dy = 3 * features(rng, rows, channels) + 1, features(rng, rows, channels)
    residual = features(rng, rows, channels) if add else None
    weight, bias = features(rng, channels), features(rng, channels)
    mean, variance = batch_statistics(x)
    inverse = (1 / np.sqrt(variance + 1e-3)).astype(np.float32)
    parameters = (mean, inverse, weight, bias, act, residual)
    y = normalise(x, *parameters, threads=2)
    np.testing.assert_allclose(y, twin.normalise(x, *parameters), rtol=1e-5, atol=1e-5)
    got = normalise_gradient(dy, x, *parameters, threads=2)
    again = normalise_gradient(dy, x, *parameters, threads=1)
    expected = twin.normalise_gradient(dy, x, *parameters)
    # A kink may fall on the other side in float32; `relu` jumps there.
    near_kink = act == "relu" and np.abs(twin.normalise(x, *parameters[:4], "none", residual)).min() < 1e-4
    for name, a, b, c in zip(("dx", "dweight", "dbias", "dresidual"), got, expected, again, strict=True):
        assert (a is None) == (b is None) == (c is None)
        if a is None or b is None or c is None:
            continue
        np.testing.assert_array_equal(a, c)
        if not near_kink:
            scale = max(1.0, float(np.abs(inverse * weight).max())) if name == "dx" else math.sqrt(rows)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("act", ["gelu", "elu"])
def test_twin_gradient_is_the_derivative(act: str) -> None:
    """The twin against central differences in float64, the statistics recomputed for every perturbed x."""
    rng = np.random.default_rng(0)
    x, dy, residual = (rng.standard_normal((7, 3)) for _ in range(3))
    weight, bias = rng.standard_normal(3), rng.standard_normal(3)

    def parameters(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, variance = twin.batch_statistics(x)
        return mean, 1 / np.sqrt(variance + 1e-3)

    def loss(x: NDArray[np.float64]) -> float:
        return float((dy * twin.normalise(x, *parameters(x), weight, bias, act, residual)).sum())

    dx = twin.normalise_gradient(dy, x, *parameters(x), weight, bias, act, residual)[0]
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        assert dx[i] == pytest.approx((loss(x + step) - loss(x - step)) / 2e-6, rel=1e-4, abs=1e-7)


@given(SEED, st.integers(0, 50), ROWS, CHANNELS, st.booleans())
@PROPERTY
def test_gather(seed: int, rows: int, count: int, channels: int, add: bool) -> None:
    rng = np.random.default_rng(seed)
    x, base = features(rng, rows, channels), features(rng, count, channels) if add else None
    index = rng.integers(-1, rows, count).astype(np.int32) if rows else np.full(count, -1, np.int32)
    np.testing.assert_allclose(gather_rows(x, index, base), twin.gather_rows(x, index, base), rtol=1e-6)


@given(SEED, st.integers(0, 200), st.integers(0, 200))
@settings(PROPERTY, max_examples=20)
def test_split_neighbours_are_those_of_the_build(seed: int, first: int, second: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-0.99, 0.99, (first + second, 3)).astype(np.float32)
    octree = build_octree(cloud, np.array([first, second], np.int32), 5, 2)
    parents: NDArray[np.int32] | int = 2
    for d in range(2, 5):
        parents = split_neighbours(octree.children[d], parents)
        np.testing.assert_array_equal(parents, octree.split_neighbours[d])


X, DY = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
TABLE, C = np.zeros((27, 4), np.int32), np.ones(3, np.float32)
WRONG: list[tuple[str, Callable[[], object]]] = [
    (r"dy: expected .* \(4, cout\), got .* \(3, 2\)", lambda: conv_weight_gradient(X, TABLE, DY[:3].copy())),
    (r"neighbours: expected rows below 4.* got 4", lambda: conv_weight_gradient(X, TABLE + 4, DY)),
    (r"neighbours: expected .* int32", lambda: conv_weight_gradient(X, TABLE.astype(np.int64), DY)),
    (r"dy: expected .* \(4, cout\)", lambda: conv_weight_gradient(X, None, DY[:3].copy())),
    (r"threads: expected", lambda: conv_weight_gradient(X, None, DY, threads=-1)),
    (r"x: expected at least one row", lambda: batch_statistics(X[:0])),
    (r"bias: expected .* \(3,\)", lambda: normalise(X, C, C, C, C[:2].copy())),
    (r"residual: expected .* \(4, 3\)", lambda: normalise(X, C, C, C, C, "gelu", DY)),
    (r"activation: expected", lambda: normalise(X, C, C, C, C, "tanh")),
    (r"dy: expected .* \(4, 3\)", lambda: normalise_gradient(DY, X, C, C, C, C)),
    (r"index: expected rows below 4", lambda: gather_rows(X, np.array([4], np.int32))),
    (r"base: expected .* \(1, 3\)", lambda: gather_rows(X, np.array([0], np.int32), X)),
    (r"ranks that ascend from 0", lambda: split_neighbours(np.array([1] + [-1] * 7, np.int32), 1)),
    (r"multiple of 8\^1", lambda: split_neighbours(np.array([0, -1], np.int32), 1)),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
def test_wrong_arguments_are_named(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
