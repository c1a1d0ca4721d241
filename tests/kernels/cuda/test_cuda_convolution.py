"""The CUDA convolutions, run on the CPU, against their NumPy twins: float32, and half on (emulated) tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import features, residual_arguments, table, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels.convolution import ACTIVATIONS
from zerograsp_edge.kernels.reference import convolution as twin

TYPES = {0: np.float32, 1: np.float16}
# Outputs are near 1 (see generators.weights). Half: inputs are exact, the sum is rounded once; inner results of a
# residual block or a perceptron once more each.
TOLERANCE = {0: 2e-5, 1: 1.5e-3}

TYPE = st.sampled_from([0, 1])
SEED = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from(SEEDS)
CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([12, 16, 24, 32, 48, 64, 80, 96]))
NODES = st.one_of(st.sampled_from([0, 1, 127, 128, 129]), st.integers(0, 200))
PRESENT = st.sampled_from([0.0, 0.03, 0.4, 1.0])
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))
SPARE = st.sampled_from([None, 0, 3, 140])
PROPERTY = settings(max_examples=4 if SANITIZED else 25, deadline=None)
UNTOUCHED = -7.0


def cast(kind: int, *arrays: Any) -> list[Any]:
    """Features and weights in the element type."""
    return [None if a is None else np.ascontiguousarray(a, TYPES[kind]) for a in arrays]


def padded(index: np.ndarray, spare: int | None) -> np.ndarray:
    """A table (..., N) in a buffer of N + spare columns that hold rows of an earlier frame."""
    if not spare:
        return index
    return np.ascontiguousarray(np.concatenate([index, np.full((*index.shape[:-1], spare), 10**6, np.int32)], -1))


def compare(kind: int, got: np.ndarray, expected: np.ndarray) -> None:
    """`got` may have rows beyond the expected ones: those must be untouched."""
    n = len(expected)
    assert (got[n:] == UNTOUCHED).all()
    np.testing.assert_allclose(got[:n].astype(np.float64), expected, rtol=TOLERANCE[kind], atol=TOLERANCE[kind])


def empty(kind: int, *shape: int) -> np.ndarray:
    return np.full(shape, UNTOUCHED, TYPES[kind])


def conv(
    cuda: Library, kind: int, x: np.ndarray, rows: np.ndarray, weight: np.ndarray, bias: np.ndarray, act: str,
    spare: int | None = None,
) -> np.ndarray:  # fmt: skip
    taps, n = rows.shape
    y = empty(kind, n + (spare or 0), weight.shape[2])
    cuda.octree_conv(
        kind, x, len(x), padded(rows, spare), taps, len(y), None if spare is None else count_of(n), weight, bias,
        *weight.shape[1:], ACTIVATIONS[act], y,
    )  # fmt: skip
    return y


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, NODES, st.sampled_from([1, 8, 27]), CHANNELS, CHANNELS, PRESENT, ACTIVATION, SPARE)
def test_conv(
    seed: int, order: int, kind: int, rows: int, nodes: int, taps: int, cin: int, cout: int, present: float,
    act: str, spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    neighbours = table(rng, taps, nodes, rows, present)
    weight, bias = weights(rng, taps, cin, cout)
    x, weight = cast(kind, features(rng, rows, cin), weight)
    y = conv(cuda, kind, x, neighbours, weight, bias, act, spare)
    compare(kind, y, twin.octree_conv(x, neighbours, weight, bias, act))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", SEEDS)
def test_missing_taps_are_skipped_where_a_tile_has_none(kind: int, order: int) -> None:
    """Tiles with all, some and no rows of a tap; several tiles of columns."""
    rng, cuda = np.random.default_rng(3), library()
    cuda.seed(order)
    neighbours = table(rng, 27, 384, 300, 0.5)
    neighbours[5:20, 128:256] = -1
    neighbours[:, 256:] = -1
    neighbours[26, 300] = 7
    weight, bias = weights(rng, 27, 32, 200)
    x, weight = cast(kind, features(rng, 300, 32), weight)
    compare(
        kind, conv(cuda, kind, x, neighbours, weight, bias, "gelu"),
        twin.octree_conv(x, neighbours, weight, bias, "gelu"),
    )  # fmt: skip


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, NODES, CHANNELS, CHANNELS, PRESENT, ACTIVATION, SPARE)
def test_downsample(
    seed: int, order: int, kind: int, split: int, nodes: int, cin: int, cout: int, present: float, act: str,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    children = table(rng, 1, nodes, split, present)[0]
    weight, bias = weights(rng, 8, cin, cout)
    x, weight = cast(kind, features(rng, 8 * split, cin), weight)
    y = empty(kind, nodes + (spare or 0), cout)
    cuda.octree_downsample(
        kind, x, len(x), padded(children, spare), len(y), None if spare is None else count_of(nodes), weight, bias, cin,
        cout, ACTIVATIONS[act], y,
    )  # fmt: skip
    compare(kind, y, twin.octree_downsample(x, children, weight, bias, act))


@PROPERTY
@given(SEED, ORDER, TYPE, st.integers(1, 60), NODES, CHANNELS, CHANNELS, st.one_of(st.none(), NODES), PRESENT,
       ACTIVATION, SPARE)  # fmt: skip
def test_upsample(
    seed: int, order: int, kind: int, rows: int, split: int, cin: int, cout: int, skips: int | None,
    present: float, act: str, spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    split_rows = rng.integers(0, rows, split).astype(np.int32)
    weight, bias = weights(rng, 8, cin, cout)
    skip = skip_index = None
    if skips is not None:
        skip, skip_index = features(rng, skips, cout), table(rng, 1, 8 * split, skips, present)[0]
    x, weight, skip = cast(kind, features(rng, rows, cin), weight, skip)
    y = empty(kind, 8 * (split + (spare or 0)), cout)
    cuda.octree_upsample(
        kind, x, len(x), padded(split_rows, spare), len(y) // 8, None if spare is None else count_of(split), weight,
        bias, cin, cout, ACTIVATIONS[act], skip, skips or 0,
        None if skip_index is None else padded(skip_index, 8 * (spare or 0)), y,
    )  # fmt: skip
    compare(kind, y, twin.octree_upsample(x, split_rows, weight, bias, act, skip, skip_index))


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, CHANNELS, CHANNELS, CHANNELS, st.booleans(), PRESENT, SPARE)
def test_residual(
    seed: int, order: int, kind: int, nodes: int, cin: int, hidden: int, cout: int, projected: bool, present: float,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    neighbours = table(rng, 27, nodes, nodes, present)
    wa, ba, w3, b3, wb, bb, wc = residual_arguments(rng, cin, hidden, cout, projected)
    x, wa, w3, wb, wc = cast(kind, features(rng, nodes, cin), wa, w3, wb, wc)
    y = empty(kind, nodes + (spare or 0), wb.shape[2])
    workspace = np.full(cuda.octree_residual_workspace(kind, len(y), hidden), 0x7F, np.uint8)
    cuda.octree_residual(
        kind, x, padded(neighbours, spare), 27, len(y), None if spare is None else count_of(nodes), wa, ba, w3, b3,
        wb, bb, wc, cin, hidden, wb.shape[2], y, workspace, workspace.size,
    )  # fmt: skip
    compare(kind, y, twin.octree_residual(x, neighbours, wa, ba, w3, b3, wb, bb, wc))


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, CHANNELS, CHANNELS, CHANNELS)
def test_mlp_and_linear(
    seed: int, order: int, kind: int, nodes: int, cin: int, hidden: int, cout: int
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    (w1, b1), (w2, b2) = weights(rng, 1, cin, hidden), weights(rng, 1, hidden, cout)
    x, w1, w2 = cast(kind, features(rng, nodes, cin), w1, w2)
    y = empty(kind, nodes, cout)
    workspace = np.full(cuda.octree_mlp_workspace(kind, nodes, hidden), 0x7F, np.uint8)
    cuda.octree_mlp(
        kind, x, nodes, None, w1, b1, w2, b2, cin, hidden, cout, y, workspace, workspace.size
    )
    compare(kind, y, twin.octree_mlp(x, w1, b1, w2, b2))
    y = empty(kind, nodes, hidden)
    cuda.octree_linear(kind, x, nodes, None, w1, None, cin, hidden, ACTIVATIONS["relu"], y)
    compare(kind, y, twin.octree_linear(x, w1, np.zeros_like(b1), "relu"))


@PROPERTY
@given(SEED, ORDER, TYPE, st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 3), CHANNELS, CHANNELS, st.booleans(),
       ACTIVATION)  # fmt: skip
def test_grid_conv(
    seed: int, order: int, kind: int, r: int, grids: int, cin: int, cout: int, add: bool, act: str
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    weight, bias = weights(rng, 27, cin, cout)
    residual = features(rng, grids, r, r, r, cout) if add else None
    x, weight, residual = cast(kind, features(rng, grids, r, r, r, cin), weight, residual)
    expected = twin.grid_conv(x, weight, bias, act, residual)
    y = empty(kind, grids, r, r, r, cout) if residual is None else residual  # it may be written in place
    cuda.grid_conv(kind, x, grids, r, weight, bias, cin, cout, ACTIVATIONS[act], residual, y)
    compare(kind, y, expected)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activation_is_exact_and_passes_nan(activation: str) -> None:
    cuda = library()
    x = np.concatenate([np.linspace(-12, 12, 4801), [-1e30, -1e6, -100, -0.0, 0.0, 1e-30, 100, 1e6, 1e30, np.nan]])
    x = x.astype(np.float32)[:, None]
    rows = np.arange(len(x), dtype=np.int32)[None]
    y = conv(cuda, 0, x, rows, np.ones((1, 1, 1), np.float32), np.zeros(1, np.float32), activation)
    np.testing.assert_allclose(y, twin.activate(x, activation), rtol=2.5e-7, atol=1.2e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_order_does_not_change_a_bit(kind: int) -> None:
    rng, cuda = np.random.default_rng(5), library()
    neighbours, (weight, bias) = table(rng, 27, 300, 300, 0.5), weights(rng, 27, 24, 24)
    x, weight = cast(kind, features(rng, 300, 24), weight)
    results = []
    for order in SEEDS:
        cuda.seed(order)
        results.append(conv(cuda, kind, x, neighbours, weight, bias, "gelu"))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


FAULTS = {
    "no barrier before a chunk is multiplied": ("    __syncthreads();\n    sum.multiply", "    sum.multiply"),
    "no wait for a chunk": ("    copy_wait<1>();\n", ""),
    "no barrier before a chunk is overwritten": ("    __syncthreads();  // the stage may be filled again\n", ""),
    "no barrier between slices": (
        "first_column, child);\n    __syncwarp();\n  }\n", "first_column, child);\n  }\n",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str) -> None:
    """A barrier or a wait left out changes the result in some order of threads, or ends the launch."""
    rng, broken = np.random.default_rng(6), planted("convolution", *FAULTS[fault], "convolution_kernel")
    neighbours, (weight, bias) = table(rng, 27, 200, 200, 0.5), weights(rng, 27, 24, 40)
    for kind in TYPES:
        x, typed = cast(kind, features(rng, 200, 24), weight)
        expected = twin.octree_conv(x, neighbours, typed, bias, "none")
        for order in SEEDS:
            broken.seed(order)
            try:
                compare(kind, conv(broken, kind, x, neighbours, typed, bias, "none"), expected)
            except (AssertionError, CudaError):
                return
    pytest.fail("the fault was not found")


@pytest.mark.parametrize("kind", TYPES)
def test_an_index_that_is_no_row_counts_as_none(kind: int) -> None:
    """TensorRT times its layers with tables of anything: nothing outside the features may be read."""
    rng, cuda = np.random.default_rng(12), library()
    n, cin, cout = 140, 16, 20

    def anything(*shape: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """A table of indices that are rows or not, and the same with -1 for those that are not."""
        wild = rng.integers(-(2**31), 2**31, shape).astype(np.int32)
        wild = np.where(rng.random(shape) < 0.5, rng.integers(0, rows, shape), wild).astype(np.int32)
        wild.reshape(-1)[:2] = rows, rows - 1
        return wild, np.where((wild >= 0) & (wild < rows), wild, -1).astype(np.int32)

    weight, bias = weights(rng, 27, cin, cout)
    x, skip, weight = cast(kind, features(rng, n, cin), features(rng, n, cout), weight)
    wild, tame = anything(27, n, rows=n)
    compare(kind, conv(cuda, kind, x, wild, weight, bias, "none"), twin.octree_conv(x, tame, weight, bias, "none"))

    eight = np.ascontiguousarray(weight[:8])
    (wild, tame), y = anything(n, rows=n // 8), empty(kind, n, cout)
    cuda.octree_downsample(kind, x, n, wild, n, None, eight, bias, cin, cout, 0, y)
    compare(kind, y, twin.octree_downsample(x, tame, eight, bias, "none"))

    (rows, tame_rows), (index, tame_index), y = anything(n, rows=n), anything(8 * n, rows=n), empty(kind, 8 * n, cout)
    cuda.octree_upsample(kind, x, n, rows, n, None, eight, bias, cin, cout, 0, skip, n, index, y)
    zero = np.concatenate([x, np.zeros((1, cin), x.dtype)])  # row -1
    compare(kind, y, twin.octree_upsample(zero, tame_rows, eight, bias, "none", skip, tame_index))


def test_launchers_name_the_argument() -> None:
    cuda = library()
    x, rows, y = np.zeros((4, 8), np.float32), np.zeros((27, 4), np.int32), np.zeros((4, 8), np.float32)
    good: list[Any] = [0, x, 4, rows, 27, 4, None, np.zeros((27, 8, 8), np.float32), None, 8, 8, 0, y]
    cuda.octree_conv(*good)
    for position, value, text in [
        (0, 7, r"type: expected 0 \(float32\) or 1 \(float16\), got 7"),
        (2, -1, "x_rows: expected 0 to 2147483647, got -1"),
        (3, None, "neighbours, children or split_rows: expected device memory"),
        (4, 28, "taps: expected 1 to 27, got 28"),
        (5, -1, "rows: expected 0 to"),
        (7, None, "weight: expected device memory"),
        (9, 0, "cin: expected 1 to 65536, got 0"),
        (11, 9, "activation: expected 0 to 3, got 9"),
    ]:
        with pytest.raises(CudaError, match=text):
            cuda.octree_conv(*good[:position], value, *good[position + 1 :])
    with pytest.raises(CudaError, match=r"workspace: expected at least \d+ bytes, got 16"):
        cuda.octree_mlp(0, x, 4, None, x, None, x, None, 8, 8, 8, y, y, 16)
    with pytest.raises(CudaError, match="wc: expected a projection of the shortcut, as cin is 8 and cout 4"):
        cuda.octree_residual(0, x, rows, 27, 4, None, x, None, x, None, x, None, None, 8, 8, 4, y, y, 10**6)
