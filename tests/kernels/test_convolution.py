"""The octree convolution kernels, with every instruction set of this machine, against their NumPy twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from generators import features, residual_arguments, table, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import CapacityError
from zerograsp_edge.kernels.convolution import (
    ACTIVATIONS,
    MAX_OUTPUTS,
    PackedWeight,
    ResidualWeights,
    grid_conv,
    octree_conv,
    octree_downsample,
    octree_mlp,
    octree_residual,
    octree_upsample,
)
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.reference import convolution as twin
from zerograsp_edge.kernels.workspace import Workspace

Floats = NDArray[np.float32]

# The weights keep every output near 1, so that a lost or doubled term of a sum stands out by far.
TOLERANCE = 2e-5

CHANNELS = st.one_of(st.integers(1, 70), st.sampled_from([2, 16, 24, 32, 48, 96, 192, 208]))
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))
NODES = st.one_of(st.sampled_from([0, 1, 2, 127, 128, 129]), st.integers(0, 300))
PRESENT = st.sampled_from([0.0, 0.03, 0.4, 0.9, 1.0])  # share of neighbours that exist
SEED = st.integers(0, 2**32 - 1)
PROPERTY = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with this instruction set."""
    if not core.set_convolution_isa(request.param):
        pytest.skip(f"this machine or this build has no {request.param}")
    assert core.convolution_isa() == request.param
    yield request.param
    core.set_convolution_isa(None)


@given(
    SEED,
    NODES,
    NODES,
    st.sampled_from([1, 8, 27]),
    CHANNELS,
    CHANNELS,
    PRESENT,
    ACTIVATION,
    st.integers(0, 3),
)
@PROPERTY
def test_conv(
    isa: str,
    seed: int,
    rows: int,
    nodes: int,
    taps: int,
    cin: int,
    cout: int,
    present: float,
    act: str,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, neighbours = features(rng, rows, cin), table(rng, taps, nodes, rows, present)
    weight, bias = weights(rng, taps, cin, cout)
    y = octree_conv(x, neighbours, PackedWeight(weight, bias), act, threads=threads)
    assert y.dtype == np.float32 and y.shape == (nodes, cout)
    np.testing.assert_allclose(
        y, twin.octree_conv(x, neighbours, weight, bias, act), rtol=TOLERANCE, atol=TOLERANCE
    )


@given(SEED, NODES, NODES, CHANNELS, CHANNELS, PRESENT, ACTIVATION)
@PROPERTY
def test_downsample(
    isa: str, seed: int, split: int, nodes: int, cin: int, cout: int, present: float, act: str
) -> None:
    rng = np.random.default_rng(seed)
    x, children = features(rng, 8 * split, cin), table(rng, 1, nodes, split, present)[0]
    weight, bias = weights(rng, 8, cin, cout)
    y = octree_downsample(x, children, PackedWeight.of_siblings(weight, bias), act)
    np.testing.assert_allclose(
        y, twin.octree_downsample(x, children, weight, bias, act), rtol=TOLERANCE, atol=TOLERANCE
    )
    childless = y[children < 0]
    assert (childless == childless[:1]).all()


@given(SEED, st.integers(1, 60), NODES, CHANNELS, CHANNELS, st.one_of(st.none(), NODES), PRESENT, ACTIVATION)
@PROPERTY
def test_upsample(
    isa: str,
    seed: int,
    rows: int,
    split: int,
    cin: int,
    cout: int,
    skips: int | None,
    present: float,
    act: str,
) -> None:
    rng = np.random.default_rng(seed)
    x, split_rows = features(rng, rows, cin), rng.integers(0, rows, split).astype(np.int32)
    weight, bias = weights(rng, 8, cin, cout)
    skip = skip_index = None
    if skips is not None:
        skip, skip_index = features(rng, skips, cout), table(rng, 1, 8 * split, skips, present)[0]
    y = octree_upsample(x, split_rows, PackedWeight(weight, bias), act, skip=skip, skip_index=skip_index)
    expected = twin.octree_upsample(x, split_rows, weight, bias, act, skip, skip_index)
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE)


@given(SEED, NODES, CHANNELS, CHANNELS, CHANNELS, st.booleans(), PRESENT, st.integers(0, 3))
@PROPERTY
def test_residual(
    isa: str,
    seed: int,
    nodes: int,
    cin: int,
    hidden: int,
    cout: int,
    projected: bool,
    present: float,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, neighbours = features(rng, nodes, cin), table(rng, 27, nodes, nodes, present)
    arguments = residual_arguments(rng, cin, hidden, cout, projected)
    y = octree_residual(x, neighbours, ResidualWeights(*arguments), threads=threads)
    np.testing.assert_allclose(
        y, twin.octree_residual(x, neighbours, *arguments), rtol=TOLERANCE, atol=TOLERANCE
    )


@given(SEED, NODES, CHANNELS, CHANNELS, CHANNELS)
@PROPERTY
def test_mlp(isa: str, seed: int, nodes: int, cin: int, hidden: int, cout: int) -> None:
    rng = np.random.default_rng(seed)
    x, first, second = features(rng, nodes, cin), weights(rng, 1, cin, hidden), weights(rng, 1, hidden, cout)
    y = octree_mlp(x, PackedWeight(*first), PackedWeight(*second))
    np.testing.assert_allclose(y, twin.octree_mlp(x, *first, *second), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("resolution", [1, 2, 3, 4, 8])
@given(
    SEED, st.integers(0, 5), st.booleans(), st.integers(1, 40), st.integers(1, 40), st.booleans(), ACTIVATION
)
@settings(PROPERTY, max_examples=20)
def test_grid_conv(
    isa: str, resolution: int, seed: int, grids: int, many: bool, cin: int, cout: int, add: bool, act: str
) -> None:
    grids = grids * 40 if many and resolution < 4 else grids  # several tables of small grids
    rng = np.random.default_rng(seed)
    x = features(rng, grids, *[resolution] * 3, cin)
    weight, bias = weights(rng, 27, cin, cout)
    residual = features(rng, grids, *[resolution] * 3, cout) if add else None
    y = grid_conv(x, PackedWeight(weight, bias), act, residual=residual)
    np.testing.assert_allclose(
        y, twin.grid_conv(x, weight, bias, act, residual), rtol=TOLERANCE, atol=TOLERANCE
    )
    if residual is not None:
        np.testing.assert_array_equal(
            grid_conv(x, PackedWeight(weight, bias), act, residual=residual, out=residual), y
        )


def test_grid_conv_is_octree_conv_on_full_grids() -> None:
    """The tap order of the two kernels is the same: 13 is the centre, z runs fastest."""
    r, rng = 4, np.random.default_rng(0)
    cells = np.stack(np.meshgrid(*[np.arange(r)] * 3, indexing="ij"), -1).reshape(-1, 3)
    near = cells + np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 1, 3)
    inside = ((near >= 0) & (near < r)).all(-1)
    neighbours = np.where(inside, near @ [r * r, r, 1], -1).astype(np.int32)
    x, (weight, bias) = features(rng, r**3, 5), weights(rng, 27, 5, 7)
    grid = grid_conv(x.reshape(1, r, r, r, 5), PackedWeight(weight, bias))
    np.testing.assert_array_equal(octree_conv(x, neighbours, PackedWeight(weight, bias)), grid.reshape(-1, 7))


def test_wide_layers(isa: str) -> None:
    """Inputs beyond one pass of a product, and the most outputs that are allowed."""
    rng = np.random.default_rng(1)
    x, neighbours = features(rng, 9, 700), table(rng, 2, 21, 9, 0.7)
    weight, bias = weights(rng, 2, 700, MAX_OUTPUTS)
    y = octree_conv(x, neighbours, PackedWeight(weight, bias))
    np.testing.assert_allclose(y, twin.octree_conv(x, neighbours, weight, bias), rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activation_is_exact(isa: str, activation: str) -> None:
    """To a few float32 roundings, over the whole range; the tail of GELU must not grow with |x|."""
    x = np.concatenate(
        [np.linspace(-12, 12, 48001), [-1e30, -1e6, -1e3, -100, -0.0, 0.0, 1e-30, 100, 1e6, 1e30]]
    )
    x = x.astype(np.float32)[:, None]
    table = np.arange(len(x), dtype=np.int32)[None]
    y = octree_conv(x, table, PackedWeight(np.ones((1, 1, 1), np.float32)), activation)
    np.testing.assert_allclose(y, twin.activate(x, activation), rtol=2.5e-7, atol=1.2e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_nan_is_not_hidden(isa: str, activation: str) -> None:
    x = np.array([[1.0], [np.nan], [-1.0]], np.float32)
    table = np.arange(3, dtype=np.int32)[None]
    y = octree_conv(x, table, PackedWeight(np.ones((1, 1, 9), np.float32)), activation)
    assert np.isnan(y).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(y[[0, 2]]).all()


def test_twin_activations_are_the_textbook_ones() -> None:
    x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])
    gelu = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(twin.activate(x, "gelu"), gelu, rtol=1e-12)
    np.testing.assert_allclose(
        twin.activate(x, "elu"), [math.exp(-3) - 1, math.exp(-1) - 1, 0, 0.5, 2], rtol=1e-12
    )
    np.testing.assert_array_equal(twin.activate(x, "relu"), [0, 0, 0, 0.5, 2])
    with pytest.raises(ValueError, match="activation: expected none, gelu, elu or relu, got 'tanh'"):
        twin.activate(x, "tanh")


Call = Callable[..., Floats]


def every_kernel() -> list[tuple[str, Call]]:
    """A call of each kernel that takes threads and out; at least a few tiles of work."""
    rng = np.random.default_rng(5)
    x, neighbours = features(rng, 900, 13), table(rng, 27, 900, 900, 0.4)
    conv, child = PackedWeight(*weights(rng, 27, 13, 21)), PackedWeight(*weights(rng, 8, 13, 21))
    sibling = PackedWeight.of_siblings(*weights(rng, 8, 13, 21))
    first, second = PackedWeight(*weights(rng, 1, 13, 30)), PackedWeight(*weights(rng, 1, 30, 21))
    block = ResidualWeights(*residual_arguments(rng, 13, 9, 21, True))
    children, rows = table(rng, 1, 900, 112, 0.8)[0], rng.integers(0, 900, 112).astype(np.int32)
    skip, index = features(rng, 70, 21), table(rng, 1, 896, 70, 0.5)[0]
    grid, residual = features(rng, 14, 4, 4, 4, 13), features(rng, 14, 4, 4, 4, 21)
    return [
        ("conv", lambda **kw: octree_conv(x, neighbours, conv, "gelu", **kw)),
        ("downsample", lambda **kw: octree_downsample(x[:896], children, sibling, "gelu", **kw)),
        ("upsample", lambda **kw: octree_upsample(x, rows, child, "elu", skip=skip, skip_index=index, **kw)),
        ("residual", lambda **kw: octree_residual(x, neighbours, block, **kw)),
        ("mlp", lambda **kw: octree_mlp(x, first, second, **kw)),
        ("grid", lambda **kw: grid_conv(grid, conv, "relu", residual=residual, **kw)),
    ]


KERNELS = every_kernel()
KERNEL = pytest.mark.parametrize("call", [c for _, c in KERNELS], ids=[n for n, _ in KERNELS])


@KERNEL
def test_threads_do_not_change_a_bit(isa: str, call: Call) -> None:
    one = call(threads=1)
    for threads in (0, 2, 3, 8):
        np.testing.assert_array_equal(call(threads=threads), one)


@KERNEL
def test_out_is_written_and_nothing_beyond(isa: str, call: Call) -> None:
    expected = call()
    buffer = np.full((len(expected) + 3, *expected.shape[1:]), 7, np.float32)
    y = call(out=buffer)
    assert np.shares_memory(y, buffer)
    np.testing.assert_array_equal(y, expected)
    assert (buffer[len(expected) :] == 7).all()


@KERNEL
def test_out_and_threads_are_checked(call: Call) -> None:
    shape = call().shape
    with pytest.raises(CapacityError, match=r"out: .* needed"):
        call(out=np.empty((shape[0] - 1, *shape[1:]), np.float32))
    with pytest.raises(ValueError, match="out: expected"):
        call(out=np.empty((*shape[:-1], shape[-1] + 1), np.float32))
    with pytest.raises(ValueError, match="out: expected"):
        call(out=np.empty(shape, np.float64))
    read_only = np.empty(shape, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writable array"):
        call(out=read_only)
    with pytest.raises(ValueError, match=r"threads: expected 0 .* got -1"):
        call(threads=-1)


def test_workspace_serves_growing_and_shrinking_frames() -> None:
    rng, workspace = np.random.default_rng(2), Workspace()
    for nodes, cin, hidden in [(5, 8, 4), (700, 24, 12), (3, 8, 4), (0, 8, 4), (260, 30, 50)]:
        arguments = residual_arguments(rng, cin, hidden, cin, False)
        x, neighbours = features(rng, nodes, cin), table(rng, 27, nodes, nodes, 0.5)
        y = octree_residual(x, neighbours, ResidualWeights(*arguments), workspace=workspace)
        np.testing.assert_allclose(
            y, twin.octree_residual(x, neighbours, *arguments), rtol=TOLERANCE, atol=TOLERANCE
        )


def test_packed_weight_describes_itself_and_defaults_to_no_bias() -> None:
    rng = np.random.default_rng(3)
    weight, _ = weights(rng, 27, 5, 7)
    packed = PackedWeight(weight)
    assert (packed.taps, packed.cin, packed.cout) == (27, 5, 7)
    assert repr(packed) == "PackedWeight(taps=27, cin=5, cout=7)"
    missing = np.full((27, 4), -1, np.int32)
    assert not octree_conv(features(rng, 2, 5), missing, packed).any()


def test_packing_copies_the_weight() -> None:
    rng = np.random.default_rng(4)
    weight, bias = weights(rng, 1, 5, 7)
    packed, x, rows = PackedWeight(weight, bias), features(rng, 3, 5), np.arange(3, dtype=np.int32)[None]
    before = octree_conv(x, rows, packed)
    weight[:], bias[:] = 0, 0
    np.testing.assert_array_equal(octree_conv(x, rows, packed), before)


# One row per rule of a wrapper: the call that breaks it, and what the error says.

F = np.float32
X, ROWS, GRID = np.zeros((16, 3), F), np.zeros((27, 16), np.int32), np.zeros((2, 4, 4, 4, 3), F)
W27, W8, W1 = (PackedWeight(np.zeros((taps, 3, 5), F)) for taps in (27, 8, 1))
SIBLINGS = PackedWeight.of_siblings(np.zeros((8, 3, 5), F))
SECOND, SQUARE = PackedWeight(np.zeros((1, 5, 2), F)), PackedWeight(np.zeros((27, 3, 3), F))
BLOCK_SHAPES = {
    "wa": (1, 3, 4), "ba": (4,), "w3": (27, 4, 4), "b3": (4,), "wb": (1, 4, 3), "bb": (3,), "wc": (1, 3, 3),
}  # fmt: skip
BLOCK = ResidualWeights(**{name: np.zeros(shape, F) for name, shape in BLOCK_SHAPES.items()})
CHILDREN, SKIP, SKIP16 = np.zeros(4, np.int32), np.zeros((6, 5), F), np.zeros((16, 5), F)


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def with_entry(array: NDArray[np.int32], value: int) -> NDArray[np.int32]:
    changed = array.copy()
    changed.flat[changed.size // 2] = value
    return changed


WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("weight: expected a PackedWeight, got ndarray", lambda: octree_conv(X, ROWS, np.zeros((27, 3, 5), F))),  # type: ignore[arg-type]
    ("x: expected .* float32 .*, got .* float64", lambda: octree_conv(X.astype(float), ROWS, W27)),
    (r"x: expected .*\(M, 3\), got .*\(16, 2\)", lambda: octree_conv(np.zeros((16, 2), F), ROWS, W27)),
    ("x: .* got non-contiguous", lambda: octree_conv(np.zeros((3, 16), F).T, ROWS, W27)),
    ("x: expected .*, got list", lambda: octree_conv([[0.0]], ROWS, W27)),  # type: ignore[arg-type]
    (r"neighbours: expected .*\(27, N\), got .*\(26, 16\)", lambda: octree_conv(X, ROWS[:26], W27)),
    ("neighbours: expected .* int32 .* int64", lambda: octree_conv(X, ROWS.astype(np.int64), W27)),
    (
        "neighbours: expected rows below 16, or -1 .* got 16",
        lambda: octree_conv(X, with_entry(ROWS, 16), W27),
    ),
    (
        "neighbours: expected rows below 16, or -1 .* got -2",
        lambda: octree_conv(X, with_entry(ROWS, -2), W27),
    ),
    ("neighbours: expected rows below 0.* got 0", lambda: octree_conv(X[:0], ROWS, W27)),
    ("activation: expected none, gelu, elu, relu, got 'tanh'", lambda: octree_conv(X, ROWS, W27, "tanh")),
    ("out: expected memory apart from x", lambda: octree_conv(X, ROWS, SQUARE, out=X)),
    ("weight: expected 1 tap, got 8", lambda: octree_downsample(X, CHILDREN, W8)),
    ("weight: expected one made by PackedWeight.of_siblings", lambda: octree_downsample(X, CHILDREN, W1)),
    ("x: expected all eight children .* 12 rows", lambda: octree_downsample(X[:12], CHILDREN, SIBLINGS)),
    ("children: expected rows below 2.* got 2", lambda: octree_downsample(X, ints(0, 2), SIBLINGS)),
    ("children: .* int32", lambda: octree_downsample(X, np.zeros(4), SIBLINGS)),  # type: ignore[arg-type]
    ("weight: expected 8 taps, got 27", lambda: octree_upsample(X, CHILDREN, W27)),
    ("split_rows: expected rows below 16, got -1", lambda: octree_upsample(X, ints(0, -1), W8)),
    ("split_rows: expected rows below 16, got 16", lambda: octree_upsample(X, ints(0, 16), W8)),
    ("skip, skip_index: expected both or neither", lambda: octree_upsample(X, CHILDREN, W8, skip=SKIP)),
    (
        r"skip: .*\(M, 5\)",
        lambda: octree_upsample(X, CHILDREN, W8, skip=X, skip_index=np.zeros(32, np.int32)),
    ),
    (r"skip_index: .*\(32,\)", lambda: octree_upsample(X, CHILDREN, W8, skip=SKIP, skip_index=CHILDREN)),
    (
        "skip_index: expected rows below 6, or -1 .* got 6",
        lambda: octree_upsample(X, CHILDREN, W8, skip=SKIP, skip_index=np.full(32, 6, np.int32)),
    ),
    (
        "out: expected memory apart from skip",
        lambda: octree_upsample(X, ints(0), W8, skip=SKIP16, skip_index=np.zeros(8, np.int32), out=SKIP16),
    ),
    ("weights: expected ResidualWeights, got PackedWeight", lambda: octree_residual(X, ROWS, W27)),  # type: ignore[arg-type]
    (r"neighbours: .*\(27, 16\)", lambda: octree_residual(X, ROWS[:, :8].copy(), BLOCK)),
    ("neighbours: expected rows below 16", lambda: octree_residual(X, with_entry(ROWS, 99), BLOCK)),
    ("out: expected memory apart from x", lambda: octree_residual(X, ROWS, BLOCK, out=X)),
    ("w1: expected 1 tap, got 27", lambda: octree_mlp(X, W27, SECOND)),
    ("w2: expected 1 tap, got 8", lambda: octree_mlp(X, W1, W8)),
    ("w2: expected 5 inputs, .* got 3", lambda: octree_mlp(X, W1, W1)),
    ("weight: expected 27 taps, got 8", lambda: grid_conv(GRID, W8)),
    (r"x: .*\(N, 4, 4, 4, 3\), got .*\(2, 4, 4, 2, 3\)", lambda: grid_conv(GRID[:, :, :, :2].copy(), W27)),
    ("r .*: expected 1 to 32, got 33", lambda: grid_conv(np.zeros((0, 33, 33, 33, 3), F), W27)),
    ("residual: expected", lambda: grid_conv(GRID, W27, residual=GRID)),
    ("weight: expected .*taps, cin, cout", lambda: PackedWeight(np.zeros((3, 5), F))),
    ("weight: .* float32", lambda: PackedWeight(np.zeros((1, 3, 5)))),  # type: ignore[arg-type]
    ("weight: expected at least one tap", lambda: PackedWeight(np.zeros((1, 0, 5), F))),
    ("weight's outputs: expected 1 to 3072, got 3073", lambda: PackedWeight(np.zeros((1, 1, 3073), F))),
    (r"bias: .*\(5,\)", lambda: PackedWeight(np.zeros((1, 3, 5), F), np.zeros(4, F))),
    (r"weight: .*\(8, cin, cout\)", lambda: PackedWeight.of_siblings(np.zeros((27, 3, 5), F))),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_errors_name_the_argument(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("name", sorted(BLOCK_SHAPES))
def test_residual_weights_name_the_argument(name: str) -> None:
    arrays = {key: np.zeros(shape, F) for key, shape in BLOCK_SHAPES.items()}
    arrays[name] = np.zeros((*BLOCK_SHAPES[name][:-1], 9), F)
    # The first array that can be seen not to fit is named: wa sets the widths of those after it.
    blamed = {"wa": "w3", "wb": "bb"}.get(name, name)
    with pytest.raises(ValueError, match=f"^{blamed}: expected"):
        ResidualWeights(**arrays)


def test_identity_shortcut_needs_equal_widths() -> None:
    arrays = {key: np.zeros(shape, F) for key, shape in BLOCK_SHAPES.items() if key != "wc"}
    with pytest.raises(ValueError, match=r"wb: expected .*\(1, 4, 3\)"):
        ResidualWeights(**{**arrays, "wb": np.zeros((1, 4, 8), F)})


def test_isa_that_does_not_exist_is_refused() -> None:
    assert not core.set_convolution_isa("mmx")
    assert core.set_convolution_isa(None)
