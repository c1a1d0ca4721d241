"""The CUDA convolutions in int8, run on the CPU with emulated tensor cores, against their NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import features, table, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels.convolution import ACTIVATIONS
from zerograsp_edge.kernels.reference import convolution as twin

TYPES = {0: np.float32, 1: np.float16, 2: np.int8}
# Outputs are near 1 (see generators.weights); sums are exact, what follows is float32, and half is rounded once more.
TOLERANCE = {0: 1e-5, 1: 1.5e-3}

TYPE = st.sampled_from([0, 1, 2])
SEED = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from(SEEDS)
CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([4, 12, 16, 32, 48, 64, 80, 96]))
NODES = st.one_of(st.sampled_from([0, 1, 127, 128, 129]), st.integers(0, 200))
PRESENT = st.sampled_from([0.0, 0.03, 0.4, 1.0])
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))
SPARE = st.sampled_from([None, 0, 3, 140])
OFFSET = st.sampled_from([0, 0, 1, 2])  # elements beyond a boundary of 16 bytes
PROPERTY = settings(max_examples=4 if SANITIZED else 25, deadline=None)
UNTOUCHED = -7
Y_SCALE = 0.03  # about 30 steps to 1; beyond 3.8 values are held


def quantized_features(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, float]:
    """Values near 1, of which a few are held at the ends of the range."""
    scale = float(np.float32(rng.uniform(0.01, 0.03)))
    return twin.quantize(features(rng, *shape), scale), scale


def quantized_weights(
    rng: np.random.Generator, taps: int, cin: int, cout: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cout, taps, cin) int8, (cout,) scales, (cout,) bias."""
    weight, bias = weights(rng, taps, cin, cout)
    weight *= np.float32(10.0) ** rng.integers(-2, 1, cout).astype(np.float32)  # channels of their own size
    return *twin.quantize_weight(weight), bias


def padded(index: np.ndarray, spare: int | None) -> np.ndarray:
    """A table (..., N) in a buffer of N + spare columns that hold rows of an earlier frame."""
    if not spare:
        return index
    return np.ascontiguousarray(np.concatenate([index, np.full((*index.shape[:-1], spare), 10**6, np.int32)], -1))


def empty(kind: int, *shape: int) -> np.ndarray:
    return np.full(shape, UNTOUCHED, TYPES[kind])


def on_boundary(array: np.ndarray, offset: int) -> np.ndarray:
    """The array, `offset` elements behind a boundary of 16 bytes."""
    buffer = np.empty(array.size + 16 + offset, array.dtype)
    start = -buffer.ctypes.data % 16 // array.itemsize + offset
    placed = buffer[start : start + array.size].reshape(array.shape)
    placed[...] = array
    return placed


def compare(kind: int, got: np.ndarray, expected: np.ndarray, tolerance: float = 0) -> None:
    """expected: float64, not quantised. `got` may have rows beyond it: those must be untouched.

    An int8 may be its neighbour where the exact quotient lies between the two, as far as float32 knows.
    """
    n = len(expected)
    assert (got[n:] == UNTOUCHED).all()
    if kind == 2:
        quotient = expected / np.float64(np.float32(Y_SCALE))
        limit = 0.5 + 1e-3 + tolerance / Y_SCALE
        assert (np.abs(got[:n] - np.clip(quotient, -127, 127)) <= limit).all()
    else:
        tolerance = max(tolerance, TOLERANCE[kind])
        np.testing.assert_allclose(got[:n].astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@PROPERTY
@given(SEED, ORDER, st.sampled_from([0, 1]), st.sampled_from([0, 1, 300]), st.integers(1, 40), SPARE, OFFSET, OFFSET)
def test_quantizing(
    seed: int, order: int, kind: int, n: int, channels: int, spare: int | None, x_offset: int, y_offset: int
) -> None:
    """Bit by bit the twin's, ties and values that are not finite included, on any boundary."""
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    scale = float(np.float32(rng.choice([0.5, 0.013, 3e-5])))
    x = (rng.standard_normal((n, channels)) * scale * rng.choice([1, 100])).astype(TYPES[kind])
    ties = rng.random(x.shape) < 0.3
    x[ties] = (rng.integers(-140, 140, ties.sum()) + 0.5) * scale
    for value in (np.nan, np.inf, -np.inf):
        x[rng.random(x.shape) < 0.02] = value
    y, more = empty(2, n + (spare or 0), channels), np.full((spare or 0, channels), 9, x.dtype)
    y = on_boundary(y, y_offset)
    given_x = on_boundary(np.concatenate([x, more]), x_offset)
    cuda.quantize(kind, given_x, len(y), None if spare is None else count_of(n), channels, scale, y)
    np.testing.assert_array_equal(y[:n], twin.quantize(x, scale))
    assert (y[n:] == UNTOUCHED).all()


def conv(
    cuda: Library, kind: int, x: np.ndarray, x_scale: float, rows: np.ndarray, weight: np.ndarray,
    weight_scale: np.ndarray, bias: np.ndarray | None, act: str, spare: int | None = None, y_scale: float = Y_SCALE,
) -> np.ndarray:  # fmt: skip
    taps, n = rows.shape
    cout, _, cin = weight.shape
    y = empty(kind, n + (spare or 0), cout)
    cuda.octree_conv_int8(
        x, x_scale, len(x), padded(rows, spare), taps, len(y), None if spare is None else count_of(n), weight,
        weight_scale, bias, cin, cout, ACTIVATIONS[act], kind, y_scale, y,
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
    weight, weight_scale, bias = quantized_weights(rng, taps, cin, cout)
    x, x_scale = quantized_features(rng, rows, cin)
    y = conv(cuda, kind, x, x_scale, neighbours, weight, weight_scale, bias, act, spare)
    compare(kind, y, twin.octree_conv_int8(x, x_scale, neighbours, weight, weight_scale, bias, act))


@pytest.mark.parametrize("order", SEEDS)
@pytest.mark.parametrize("cin", [5, 12, 64])
def test_sums_are_exact(order: int, cin: int) -> None:
    """Without scales and bias, float32 holds the int32 sums as they are; the extreme values fit as well."""
    rng, cuda = np.random.default_rng(order), library()
    cuda.seed(order)
    x = rng.choice(np.array([-127, -1, 0, 1, 127], np.int8), (300, cin))
    weight = rng.integers(-127, 128, (50, 27, cin)).astype(np.int8)
    weight[0] = 127
    x[0] = -127
    neighbours = table(rng, 27, 140, 300, 0.5)
    neighbours[:, 7] = 0
    one = np.ones(50, np.float32)
    y = conv(cuda, 0, x, 1.0, neighbours, weight, one, None, "none")
    expected = twin.octree_conv_int8(x, 1.0, neighbours, weight, one, np.zeros(50, np.float32))
    np.testing.assert_array_equal(y, np.asarray(expected, np.float32))
    assert y[7, 0] == np.float32(-127 * 127 * 27 * cin)


@pytest.mark.parametrize("order", SEEDS)
def test_missing_taps_are_skipped_where_a_tile_has_none(order: int) -> None:
    """Tiles with all, some and no rows of a tap; several tiles of columns; chunks with parts of three taps."""
    rng, cuda = np.random.default_rng(3), library()
    cuda.seed(order)
    neighbours = table(rng, 27, 384, 300, 0.5)
    neighbours[5:20, 128:256] = -1
    neighbours[:, 256:] = -1
    neighbours[26, 300] = 7
    for cin in (32, 24):
        weight, weight_scale, bias = quantized_weights(rng, 27, cin, 200)
        x, x_scale = quantized_features(rng, 300, cin)
        y = conv(cuda, 0, x, x_scale, neighbours, weight, weight_scale, bias, "gelu")
        compare(0, y, twin.octree_conv_int8(x, x_scale, neighbours, weight, weight_scale, bias, "gelu"))


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, NODES, CHANNELS, CHANNELS, PRESENT, ACTIVATION, SPARE)
def test_downsample(
    seed: int, order: int, kind: int, split: int, nodes: int, cin: int, cout: int, present: float, act: str,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    children = table(rng, 1, nodes, split, present)[0]
    weight, weight_scale, bias = quantized_weights(rng, 8, cin, cout)
    x, x_scale = quantized_features(rng, 8 * split, cin)
    y = empty(kind, nodes + (spare or 0), cout)
    cuda.octree_downsample_int8(
        x, x_scale, len(x), padded(children, spare), len(y), None if spare is None else count_of(nodes), weight,
        weight_scale, bias, cin, cout, ACTIVATIONS[act], kind, Y_SCALE, y,
    )  # fmt: skip
    compare(kind, y, twin.octree_downsample_int8(x, x_scale, children, weight, weight_scale, bias, act))


@PROPERTY
@given(
    SEED, ORDER, TYPE, NODES, st.integers(0, 40), CHANNELS, CHANNELS, ACTIVATION, st.sampled_from([None, 0, 1, 2]),
    SPARE,
)  # fmt: skip
def test_upsample(
    seed: int, order: int, kind: int, rows: int, splits: int, cin: int, cout: int, act: str, skip_kind: int | None,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    rows += splits > 0
    split_rows = rng.integers(0, max(rows, 1), splits).astype(np.int32)
    by_child = [quantized_weights(rng, 1, cin, cout) for _ in range(8)]
    weight = np.ascontiguousarray(np.stack([w[:, 0] for w, _, _ in by_child]))
    _, weight_scale, bias = by_child[0]
    x, x_scale = quantized_features(rng, rows, cin)
    skip, skip_index, skip_scale, exact = None, None, 0.0, None
    if skip_kind is not None:
        skip_index = table(rng, 1, 8 * splits, 30, 0.6)[0]
        skip = features(rng, 30, cout).astype(np.float16).astype(np.float32)
        exact, skip_scale = skip, 0.025
        if skip_kind == 2:
            skip = twin.quantize(skip, skip_scale)
            exact = skip * np.float32(skip_scale)
        skip = skip.astype(TYPES[skip_kind])
    y = empty(kind, 8 * (splits + (spare or 0)), cout)
    cuda.octree_upsample_int8(
        x, x_scale, len(x), padded(split_rows, spare), len(y) // 8, None if spare is None else count_of(splits), weight,
        weight_scale, bias, cin, cout, ACTIVATIONS[act], skip_kind or 0, skip_scale, skip,
        0 if skip is None else len(skip),
        None if skip_index is None else padded(skip_index, 8 * spare if spare else None), kind, Y_SCALE, y,
    )  # fmt: skip
    expected = twin.octree_upsample_int8(
        x, x_scale, split_rows, weight, weight_scale, bias, act, exact, skip_index
    )
    compare(kind, y, expected)


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, CHANNELS, CHANNELS, ACTIVATION, SPARE)
def test_linear(
    seed: int, order: int, kind: int, n: int, cin: int, cout: int, act: str, spare: int | None
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    weight, weight_scale, bias = quantized_weights(rng, 1, cin, cout)
    x, x_scale = quantized_features(rng, n + (spare or 0), cin)
    y = empty(kind, len(x), cout)
    cuda.octree_linear_int8(
        x, x_scale, len(x), None if spare is None else count_of(n), weight, weight_scale, bias, cin, cout,
        ACTIVATIONS[act], kind, Y_SCALE, y,
    )  # fmt: skip
    compare(kind, y, twin.octree_linear_int8(x[:n], x_scale, weight, weight_scale, bias, act))


def linear(cuda: Library, x: np.ndarray, x_scale: float, unit: tuple[Any, ...], act: str, y_scale: float) -> np.ndarray:
    """int8 of a linear layer, which test_linear compares with its twin."""
    weight, weight_scale, bias = unit
    y = empty(2, len(x), len(weight))
    cuda.octree_linear_int8(
        x, x_scale, len(x), None, weight, weight_scale, bias, x.shape[1], len(weight), ACTIVATIONS[act], 2, y_scale, y
    )
    return y


def flips(inner: np.ndarray, expected: np.ndarray) -> int:
    """How many hidden values of a row are their neighbour at most; none is farther away."""
    difference = np.abs(inner.astype(int) - expected.astype(int))
    assert difference.max(initial=0) <= 1
    return int(difference.sum(1).max(initial=0))


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, CHANNELS, CHANNELS, CHANNELS, SPARE)
def test_mlp(
    seed: int, order: int, kind: int, n: int, cin: int, hidden: int, cout: int, spare: int | None
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    one, two = quantized_weights(rng, 1, cin, hidden), quantized_weights(rng, 1, hidden, cout)
    x, x_scale = quantized_features(rng, n + (spare or 0), cin)
    y, scale = empty(kind, len(x), cout), 0.02
    workspace = np.full(cuda.octree_mlp_int8_workspace(len(x), hidden), 0x7F, np.uint8)
    cuda.octree_mlp_int8(
        x, x_scale, len(x), None if spare is None else count_of(n), *one, scale, *two, cin, hidden, cout, kind, Y_SCALE,
        y, workspace, workspace.size,
    )  # fmt: skip
    inner = linear(cuda, x[:n], x_scale, one, "gelu", scale)
    compare(kind, y, twin.octree_linear_int8(inner, scale, *two))
    flips(inner, twin.octree_linear_int8(x[:n], x_scale, *one, "gelu", scale))


@PROPERTY
@given(SEED, ORDER, TYPE, NODES, CHANNELS, CHANNELS, CHANNELS, st.booleans(), PRESENT, SPARE)
def test_residual(
    seed: int, order: int, kind: int, n: int, cin: int, hidden: int, cout: int, projected: bool, present: float,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    cout = cout if projected else cin
    wa, w3 = quantized_weights(rng, 1, cin, hidden), quantized_weights(rng, 27, hidden, hidden)
    wb = quantized_weights(rng, 1, hidden, cout)
    wc = quantized_weights(rng, 1, cin, cout)[:2] if projected else (None, None)
    neighbours = table(rng, 27, n, n, present)
    x, x_scale = quantized_features(rng, n, cin)
    more, scales = spare or 0, (0.021, 0.017)
    whole = np.concatenate([x, np.full((more, cin), 3, np.int8)])
    y = empty(kind, n + more, cout)
    workspace = np.full(cuda.octree_residual_int8_workspace(n + more, hidden, cout), 0x7F, np.uint8)
    cuda.octree_residual_int8(
        whole, x_scale, padded(neighbours, spare), 27, n + more, None if spare is None else count_of(n),
        *wa, scales[0], *w3, scales[1], *wb, *wc, cin, hidden, cout, kind, Y_SCALE, y, workspace, workspace.size,
    )  # fmt: skip
    # The hidden values by the functions that are tested above; with them the twin's last step is exact.
    first = linear(cuda, x, x_scale, wa, "gelu", scales[0])
    second = conv(cuda, 2, first, scales[0], neighbours, *w3, "gelu", y_scale=scales[1])
    shortcut = twin.octree_linear_int8(x, x_scale, *wc, np.zeros(cout)) if projected else x * np.float64(x_scale)
    compare(kind, y, twin.activate(shortcut + twin.octree_linear_int8(second, scales[1], *wb), "elu"))
    # And all of it, as far as hidden values near a tie allow.
    expected = twin.octree_residual_int8(x, x_scale, neighbours, *wa, scales[0], *w3, scales[1], *wb, *wc)
    flipped = flips(first, twin.octree_linear_int8(x, x_scale, *wa, "gelu", scales[0]))
    flipped += flips(second, twin.octree_conv_int8(first, scales[0], neighbours, *w3, "gelu", scales[1]))
    if flipped == 0:
        compare(kind, y, expected)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize(
    "change",
    [
        ("convolution_kernel", "    __syncthreads();  // the stage may be filled again\n", ""),
        ("convolution_kernel", "    copy_wait<1>();\n", ""),
        ("convolution_tile", "k + lane / 8 % 2 * 16", "k"),  # half of the inner dimension
        ("convolution_tile", "(k ^ (row >> 1 & 3) << 4)", "(k & 15)"),  # parts of a row on top of each other
        ("convolution_tile", "(k ^ (row >> 1 & 3) << 4)", "(k | (row >> 1 & 3) << 4)"),
    ],
)
def test_planted_mistakes_are_found(change: tuple[str, str, str]) -> None:
    header, old, new = change
    rng, broken = np.random.default_rng(0), planted("convolution_int8", old, new, header)
    x, x_scale = quantized_features(rng, 200, 64)
    weight, weight_scale, bias = quantized_weights(rng, 27, 64, 32)
    neighbours = table(rng, 27, 128, 200, 0.6)
    expected = twin.octree_conv_int8(x, x_scale, neighbours, weight, weight_scale, bias)
    for order in SEEDS:
        broken.seed(order)
        try:
            compare(0, conv(broken, 0, x, x_scale, neighbours, weight, weight_scale, bias, "none"), expected)
        except (AssertionError, CudaError):
            return
    pytest.fail("the fault was not found")


def test_launchers_name_the_argument() -> None:
    cuda, some = library(), np.zeros(64, np.int8)
    scale = np.ones(16, np.float32)

    def call(
        x_scale: float = 1.0, cin: int = 4, kind: int = 2, y_scale: float = 1.0, weight_scale: Any = scale
    ) -> None:
        cuda.octree_linear_int8(some, x_scale, 1, None, some, weight_scale, None, cin, 4, 0, kind, y_scale, some)

    call()
    call(kind=0, y_scale=0.0)  # which does not count there
    for name, value in (("x_scale", 0.0), ("y_scale", -1.0), ("x_scale", np.nan), ("y_scale", np.inf)):
        with pytest.raises(CudaError, match=f"{name}: expected a positive, finite number, got"):
            call(**{name: value})
    with pytest.raises(CudaError, match=r"type: expected 0 \(float32\), 1 \(float16\) or 2 \(int8\), got 3"):
        call(kind=3)
    with pytest.raises(CudaError, match="weight_scale: expected device memory, got null"):
        call(weight_scale=None)
    with pytest.raises(CudaError, match="cin: expected 1 to 131071, got 131072"):  # more would overflow int32
        call(cin=131072)
    with pytest.raises(CudaError, match="wc: expected a projection of the shortcut, as cin is 4 and cout 5"):
        cuda.octree_residual_int8(
            some, 1.0, some, 27, 1, None, some, scale, None, 1.0, some, scale, None, 1.0, some, scale, None, None, None,
            4, 4, 5, 0, 1.0, some, some, 64,
        )  # fmt: skip
