"""Octree of points, neighbour tables, alignment: native kernels against twins, ocnn and reference vectors."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from generators import clouds, key_pairs
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels import octree, output_octree
from zerograsp_edge.kernels.checks import CapacityError
from zerograsp_edge.kernels.reference import octree as reference
from zerograsp_edge.kernels.workspace import Workspace


def sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, np.int32).tobytes()).hexdigest()


def golden_counts(golden: dict[str, np.ndarray]) -> np.ndarray:
    return np.bincount(np.searchsorted(golden["obj_ids"], golden["labels"])).astype(np.int32)


def assert_same_octree(got: octree.Octree, expected: reference.Octree | octree.Octree) -> None:
    np.testing.assert_array_equal(got.voxel, expected.voxel)
    np.testing.assert_array_equal(got.batch_nnum, expected.batch_nnum)
    np.testing.assert_array_equal(got.batch_nnum_split, expected.batch_nnum_split)
    for name in ("keys", "children", "split_neighbours"):
        ours, theirs = getattr(got, name), getattr(expected, name)
        assert ours.keys() == theirs.keys()
        for depth in ours:
            np.testing.assert_array_equal(ours[depth], theirs[depth], err_msg=f"{name}[{depth}]")


@settings(max_examples=40, deadline=None)
@given(clouds(), st.sampled_from([(9, 3), (9, 1), (5, 3), (3, 3), (2, 0), (10, 2)]))
def test_build_equals_twin(cloud: tuple[np.ndarray, np.ndarray], depths: tuple[int, int]) -> None:
    points, counts = cloud
    got = octree.build_octree(points, counts, *depths)
    assert_same_octree(got, reference.build_octree(points, counts, *depths))
    for d, keys in got.keys.items():
        assert (np.diff(keys) > 0).all()
        assert got.nnum[d] == len(keys) and got.nnum_split[d] == (got.children[d] >= 0).sum()


@settings(max_examples=20, deadline=None)
@given(clouds())
def test_build_does_not_depend_on_threads(cloud: tuple[np.ndarray, np.ndarray]) -> None:
    one = octree.build_octree(*cloud, threads=1)
    for threads in (2, 5):
        assert_same_octree(octree.build_octree(*cloud, threads=threads), one)


@settings(max_examples=12, deadline=None)
@given(clouds())
def test_build_equals_ocnn(cloud: tuple[np.ndarray, np.ndarray]) -> None:
    ocnn = pytest.importorskip("ocnn")
    torch = pytest.importorskip("torch")
    points, counts = cloud
    counts = counts[counts > 0]  # ocnn has no octree without points
    assume(len(counts))
    parts = []
    for part in np.split(points, np.cumsum(counts)[:-1]):
        parts.append(ocnn.octree.Octree(depth=7, full_depth=3))
        parts[-1].build_octree(ocnn.octree.Points(torch.from_numpy(part)))
    merged = ocnn.octree.merge_octrees(parts)
    merged.construct_all_neigh()
    got = octree.build_octree(points, counts, 7, 3)
    np.testing.assert_array_equal(got.batch_nnum, merged.batch_nnum)
    np.testing.assert_array_equal(got.batch_nnum_split, merged.batch_nnum_nempty)
    for d in range(3, 8):
        np.testing.assert_array_equal(got.keys[d], merged.keys[d])
        np.testing.assert_array_equal(got.children[d], merged.children[d])
    for d in range(4, 8):
        neighbours = octree.expand_neighbours(got.split_neighbours[d - 1])
        np.testing.assert_array_equal(neighbours.T, merged.neighs[d])


def test_build_is_the_published_one(golden: dict[str, np.ndarray]) -> None:
    got = octree.build_octree(golden["points"], golden_counts(golden))
    np.testing.assert_array_equal(got.nnum, golden["in/nnum"])
    np.testing.assert_array_equal(got.nnum_split, golden["in/nnum_nempty"])
    np.testing.assert_array_equal(got.batch_nnum, golden["in/batch_nnum"])
    np.testing.assert_array_equal(got.batch_nnum_split, golden["in/batch_nnum_nempty"])
    for d in range(3, 10):
        np.testing.assert_array_equal(got.keys[d], golden[f"in/keys{d}"])
        np.testing.assert_array_equal(got.children[d], golden[f"in/children{d}"])
    for d in range(4, 10):
        neighbours = octree.expand_neighbours(got.split_neighbours[d - 1]).T
        assert sha256(neighbours) == str(golden[f"in/neigh{d}_sha256_int32"])
        if d <= 6:
            np.testing.assert_array_equal(neighbours, golden[f"in/neigh{d}"])
    # With every node a row of its own, the active grid is the full one.
    full = output_octree.active_grid(got.keys[3], got.num_objects, depth=3, radius=4)
    assert sha256(full.neighbours.T) == str(golden["in/neigh3_sha256_int32"])


def test_twin_build_is_the_published_one(golden: dict[str, np.ndarray]) -> None:
    expected = octree.build_octree(golden["points"], golden_counts(golden))
    assert_same_octree(expected, reference.build_octree(golden["points"], golden_counts(golden)))


def test_build_into_buffers_with_one_workspace() -> None:
    rng = np.random.default_rng(1)
    workspace = Workspace()
    buffers = octree.Octree.allocate(5, 6, 2, dict.fromkeys(range(3, 7), 30000), max_points=3000)
    for counts in ([10, 0, 700], [3000], [1, 1, 1, 1, 1], [0, 0], [500, 400]):
        points = rng.uniform(-0.99, 0.99, (sum(counts), 3)).astype(np.float32)
        lengths = np.array(counts, np.int32)
        got = octree.build_octree(points, lengths, 6, 2, out=buffers, workspace=workspace)
        assert np.shares_memory(got.keys[6], buffers.keys[6]) or len(got.keys[6]) == 0
        assert_same_octree(got, reference.build_octree(points, lengths, 6, 2))


def test_objects_without_points_keep_their_grid() -> None:
    got = octree.build_octree(np.zeros((0, 3), np.float32), np.zeros(2, np.int32), 4, 2)
    assert [len(got.keys[d]) for d in (2, 3, 4)] == [128, 0, 0]
    assert (got.children[2] == -1).all()


def test_build_errors_name_the_limit() -> None:
    points, counts = np.linspace(-0.9, 0.9, 300, dtype=np.float32).reshape(100, 3), np.array([100], np.int32)
    needed = octree.build_octree(points, counts, 5, 2)
    sizes = {d: int(needed.nnum[d]) for d in (3, 4, 5)}
    exact = octree.Octree.allocate(1, 5, 2, sizes, 100)
    assert_same_octree(octree.build_octree(points, counts, 5, 2, out=exact), needed)
    small = octree.Octree.allocate(1, 5, 2, {**sizes, 4: sizes[4] - 8}, 100)
    with pytest.raises(
        CapacityError, match=f"nodes at depth 4: {sizes[4]} needed, but the buffer holds {sizes[4] - 8}"
    ):
        octree.build_octree(points, counts, 5, 2, out=small)
    with pytest.raises(CapacityError, match="points: 100 needed"):
        octree.build_octree(points, counts, 5, 2, out=octree.Octree.allocate(1, 5, 2, sizes, 99))
    with pytest.raises(CapacityError, match="objects: 2 needed"):
        octree.build_octree(points, np.array([50, 50], np.int32), 5, 2, out=exact)
    with pytest.raises(ValueError, match=r"counts: .* sum to 100 points"):
        octree.build_octree(points, counts - 1, 5, 2)
    with pytest.raises(ValueError, match="depth: expected 1 to 10, got 11"):
        octree.build_octree(points, counts, 11, 2)


@pytest.mark.parametrize("value", [np.nan, 1.0, -1.001, np.inf])
def test_build_refuses_points_outside(value: float) -> None:
    points = np.zeros((7, 3), np.float32)
    points[5, 1] = value
    with pytest.raises(ValueError, match=r"points: expected coordinates in \[-1, 1\).* at index 5"):
        octree.build_octree(points, np.array([3, 4], np.int32))


@settings(max_examples=30, deadline=None)
@given(clouds(), st.booleans(), st.sampled_from([1, 3]))
def test_expand_equals_twin_and_search(
    cloud: tuple[np.ndarray, np.ndarray], ranked: bool, threads: int
) -> None:
    built = octree.build_octree(*cloud, 6, 2)
    for d in range(3, 7):
        rank = built.children[d] if ranked else None
        table = built.split_neighbours[d - 1]
        got = octree.expand_neighbours(table, rank, threads=threads)
        np.testing.assert_array_equal(got, reference.expand_neighbours(table, rank))
        if not ranked:
            np.testing.assert_array_equal(got.T, reference.neighbours_by_search(built.keys[d], d))


def test_expand_into_buffer() -> None:
    table = octree.build_octree(np.zeros((1, 3), np.float32), np.ones(1, np.int32), 4, 2).split_neighbours[3]
    buffer = np.full((27, 100), 7, np.int32)
    got = octree.expand_neighbours(table, out=buffer)
    assert got.shape == (27, 8) and got.flags.c_contiguous and np.shares_memory(got, buffer)
    np.testing.assert_array_equal(got, reference.expand_neighbours(table))
    with pytest.raises(CapacityError, match="nodes"):
        octree.expand_neighbours(table, out=np.empty((27, 7), np.int32))
    with pytest.raises(ValueError, match=r"rank: expected .* shape \(8,\)"):
        octree.expand_neighbours(table, np.zeros(9, np.int32))


@settings(max_examples=120, deadline=None)
@given(key_pairs(), st.sampled_from([1, 3]))
def test_align_equals_twin(pair: tuple[np.ndarray, np.ndarray], threads: int) -> None:
    source, target = pair
    got = octree.align(source, target, threads=threads)
    np.testing.assert_array_equal(got, reference.align(source, target))


def test_align_is_the_published_one(golden: dict[str, np.ndarray]) -> None:
    for d in range(4, 10):
        got = octree.align(golden[f"in/keys{d}"], golden[f"out/keys{d}"])
        np.testing.assert_array_equal(got, reference.align(golden[f"in/keys{d}"], golden[f"out/keys{d}"]))
    found = octree.align(golden["in/keys4"], golden["out/keys4"])
    np.testing.assert_array_equal(np.flatnonzero(found >= 0), golden["align4/found_index"])
