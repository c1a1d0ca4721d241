"""Growth of the output octree, its reduced first grid: native kernels against twins and reference vectors."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from generators import full_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels import octree, output_octree
from zerograsp_edge.kernels.checks import CapacityError
from zerograsp_edge.kernels.reference import octree as reference
from zerograsp_edge.kernels.workspace import Workspace


def assert_same(got: object, expected: object, names: list[str]) -> None:
    for name in names:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


GROWTH = ["children", "split_rows", "next_keys", "split_neighbours", "nan_count"]
GRID = ["rows", "neighbours", "source", "num_active"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 40]),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    st.booleans(),
    st.sampled_from([1, 3]),
)
def test_growth_equals_twin(seed: int, num_objects: int, share: float, by_rows: bool, threads: int) -> None:
    rng = np.random.default_rng(seed)
    keys, parents = full_grid(num_objects, 2), 2
    depth = 2
    workspace = Workspace()
    for _ in range(3):
        count = max(1, len(keys) // 3) if by_rows else len(keys)
        rows = rng.integers(0, count, len(keys)).astype(np.int32) if by_rows else None
        logits = rng.integers(-2, 3, (count, 3)).astype(np.float32)  # ties
        logits[rng.random(count) >= share, 1] = -9
        logits[rng.random(count) < 0.02, rng.integers(0, 2)] = np.nan
        got = output_octree.grow(logits, rows, keys, parents, workspace=workspace, threads=threads)
        assert_same(got, reference.grow(logits, rows, keys, parents), GROWTH)
        # The tables are those that a search by key finds.
        neighbours = octree.expand_neighbours(got.split_neighbours).T
        depth += 1
        np.testing.assert_array_equal(neighbours, reference.neighbours_by_search(got.next_keys, depth))
        last = output_octree.grow(logits, rows, keys, None)
        assert_same(last, reference.grow(logits, rows, keys, None), GROWTH)
        keys, parents = got.next_keys, got.split_neighbours


def test_growth_is_the_published_one(golden: dict[str, np.ndarray]) -> None:
    parents: np.ndarray | int | None = 4
    for d in range(4, 10):
        keys = golden[f"out/keys{d}"]
        split = np.unpackbits(golden[f"out/split{d}"])[: len(keys)].astype(bool)
        parents = parents if d < 9 else None
        got = output_octree.grow(golden[f"out/logits{d}"], None, keys, parents)
        assert_same(got, output_octree.grow(None, None, keys, parents, forced=split), GROWTH)
        assert len(got.split_rows) == golden[f"out/split{d}_info"][1] and got.nan_count == 0
        if d < 9:
            np.testing.assert_array_equal(got.next_keys, golden[f"out/keys{d + 1}"])
        if d < 6:
            neighbours = octree.expand_neighbours(got.split_neighbours).T
            digest = hashlib.sha256(np.ascontiguousarray(neighbours).tobytes()).hexdigest()
            assert digest == str(golden[f"out/neigh{d + 1}_sha256_int32"])
        parents = got.split_neighbours


def test_a_node_splits_when_none_wants_to() -> None:
    keys = full_grid(3, 4)
    got = output_octree.grow(np.zeros((len(keys), 2), np.float32), None, keys, 4)
    assert got.children[0] == 0 and (got.children[1:] == -1).all()
    np.testing.assert_array_equal(got.next_keys, np.arange(8))
    np.testing.assert_array_equal(got.split_neighbours, [[-1] * 13 + [0] + [-1] * 13])


def test_forced_splits_win_over_logits() -> None:
    keys = full_grid(1, 1)
    forced = np.array([0, 1, 0, 0, 0, 0, 0, 1], bool)
    logits = np.zeros((8, 2), np.float32)
    logits[3] = np.nan
    got = output_octree.grow(logits, None, keys, 1, forced=forced)
    np.testing.assert_array_equal(got.children, [-1, 0, -1, -1, -1, -1, -1, 1])
    assert got.nan_count == 1


def test_growth_errors() -> None:
    keys, logits = full_grid(2, 2), np.ones((128, 2), np.float32)
    logits[:5, 1] = 2
    with pytest.raises(CapacityError, match="split nodes: 5 needed, but the buffer holds 4"):
        output_octree.grow(logits, None, keys, 2, out=output_octree.Growth.allocate(128, 4))
    with pytest.raises(ValueError, match="rows: expected 0 to 127"):
        output_octree.grow(logits, np.full(128, 128, np.int32), keys, 2)
    with pytest.raises(ValueError, match="logits: expected one row for each of 128 nodes"):
        output_octree.grow(logits[:100], None, keys, 2)
    with pytest.raises(ValueError, match="parents: expected 128 / 8 rows"):
        output_octree.grow(logits, None, keys, np.zeros((15, 27), np.int32))
    with pytest.raises(ValueError, match=r"keys: expected a multiple of 8\^3"):
        output_octree.grow(logits, None, keys, 3)


def test_growth_into_buffers() -> None:
    rng = np.random.default_rng(2)
    buffers, workspace = output_octree.Growth.allocate(512, 300), Workspace()
    for num_objects in (4, 8, 1):
        keys = full_grid(num_objects, 2)
        logits = rng.standard_normal((len(keys), 2)).astype(np.float32)
        got = output_octree.grow(logits, None, keys, 2, out=buffers, workspace=workspace)
        assert np.shares_memory(got.split_neighbours, buffers.split_neighbours)
        assert_same(got, reference.grow(logits, None, keys, 2), GROWTH)


@st.composite
def key_sets(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    depth, radius = draw(
        st.sampled_from([(1, 1), (2, 0), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4), (4, 2)])
    )
    num_objects = draw(st.integers(1, 3))
    everything = full_grid(num_objects, depth)
    keys = everything[rng.random(len(everything)) < draw(st.sampled_from([0.0, 0.003, 0.05, 1.0]))]
    if draw(st.booleans()):  # the cube's corners
        keys = np.union1d(keys, everything[[0, 8**depth - 1, -1]])
    return keys, num_objects, depth, radius


@settings(max_examples=30, deadline=None)
@given(key_sets(), st.sampled_from([1, 3]))
def test_active_grid_equals_twin(case: tuple[np.ndarray, int, int, int], threads: int) -> None:
    got = output_octree.active_grid(*case, threads=threads)
    assert_same(got, reference.active_grid(*case), GRID)


def convolutions(
    x: np.ndarray, neighbours: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """x (N, C) through 27-tap convolutions with bias and a nonlinearity; neighbours (27, N)."""
    for weight, bias in layers:
        padded = np.concatenate([x, np.zeros_like(x[:1])])  # row -1: a missing neighbour
        x = np.tanh(np.einsum("tnc,tcd->nd", padded[neighbours], weight) + bias)
    return x


@settings(max_examples=40, deadline=None)
@given(key_sets(), st.integers(0, 2**32 - 1))
def test_active_rows_stand_for_the_full_grid(case: tuple[np.ndarray, int, int, int], seed: int) -> None:
    keys, num_objects, depth, radius = case
    rng = np.random.default_rng(seed)
    layers = [(rng.standard_normal((27, 3, 3)) / 4, rng.standard_normal(3)) for _ in range(radius)]
    features = np.concatenate([rng.standard_normal((len(keys), 3)), np.zeros((1, 3))])  # row M: no feature

    everything = full_grid(num_objects, depth)
    on_grid = features[reference.align(keys, everything)]  # -1 is row M
    expected = convolutions(on_grid, reference.neighbours_by_search(everything, depth).T, layers)

    grid = output_octree.active_grid(keys, num_objects, depth, radius)
    got = convolutions(features[grid.source], grid.neighbours, layers)[grid.rows]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_active_rows_need_the_radius() -> None:
    """One layer more than the radius is not exact: the test above can fail."""
    keys = full_grid(1, 4)[[1234]]
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((27, 1, 1)) / 4, rng.standard_normal(1)) for _ in range(2)]
    everything = full_grid(1, 4)
    features = np.array([[1.0], [0.0]])
    expected = convolutions(
        features[reference.align(keys, everything)], reference.neighbours_by_search(everything, 4).T, layers
    )
    grid = output_octree.active_grid(keys, 1, 4, radius=1)
    got = convolutions(features[grid.source], grid.neighbours, layers)[grid.rows]
    assert np.abs(got - expected).max() > 1e-3


def test_active_grid_is_small(golden: dict[str, np.ndarray]) -> None:
    keys, num_objects = golden["in/keys4"], len(golden["obj_ids"])
    grid = output_octree.active_grid(keys, num_objects)
    assert len(grid.source) == grid.num_active + 125 < len(grid.rows) / 8
    np.testing.assert_array_equal(keys[grid.source[grid.source < len(keys)]], keys)


def test_active_grid_into_buffers_and_errors() -> None:
    buffers, workspace = output_octree.ActiveGrid.allocate(2, 3, 800), Workspace()
    for keys in (np.array([5, 70]), np.array([511]), np.array([0, (1 << 48) + 3])):
        got = output_octree.active_grid(keys, 2, 3, 1, out=buffers, workspace=workspace)
        assert np.shares_memory(got.neighbours, buffers.neighbours) and got.neighbours.flags.c_contiguous
        assert_same(got, reference.active_grid(keys, 2, 3, 1), GRID)
    with pytest.raises(CapacityError, match=r"rows: .* needed, but the buffer holds 20"):
        output_octree.active_grid(keys, 2, 3, 1, out=output_octree.ActiveGrid.allocate(2, 3, 20))
    with pytest.raises(
        ValueError, match="keys: expected nodes of depth 3 of 2 objects, got object 2, Morton key 1"
    ):
        output_octree.active_grid(np.array([(2 << 48) + 1]), 2, 3)
    with pytest.raises(ValueError, match="Morton key 512"):
        output_octree.active_grid(np.array([512]), 2, 3)
