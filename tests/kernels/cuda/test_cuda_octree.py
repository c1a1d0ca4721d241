"""Neighbours, alignment, growth and build of octrees: the CUDA kernels, run on the CPU, against their NumPy twins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import clouds, full_grid, key_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels.reference import octree as reference

UNTOUCHED = -77  # what lies in buffers beyond the count
SEED = st.sampled_from(SEEDS)


def filled(*shape: int, dtype: type = np.int32) -> np.ndarray:
    return np.full(shape, UNTOUCHED, dtype)


@settings(max_examples=15, deadline=None)
@given(clouds(), st.booleans(), SEED, st.sampled_from([None, 0, 5]))
def test_expand_neighbours(
    cloud: tuple[np.ndarray, np.ndarray], ranked: bool, seed: int, spare: int | None
) -> None:
    """With `spare`, the buffers hold that many more parents than there are, and the count lies on the device."""
    cuda = library()
    cuda.seed(seed)
    built = reference.build_octree(*cloud, 5, 2)
    for d in range(3, 6):
        table = built.split_neighbours[d - 1]
        rank = built.children[d] if ranked else None
        splits = len(table) + (spare or 0)
        got = filled(27, 8 * splits)
        count = None if spare is None else count_of(len(table))
        cuda.expand_neighbours(table, splits, count, rank, got)
        np.testing.assert_array_equal(got[:, : 8 * len(table)], reference.expand_neighbours(table, rank))
        assert (got[:, 8 * len(table) :] == UNTOUCHED).all()


@settings(max_examples=40, deadline=None)
@given(key_pairs(), SEED, st.sampled_from([None, 0, 9]))
def test_align(pair: tuple[np.ndarray, np.ndarray], seed: int, spare: int | None) -> None:
    cuda = library()
    cuda.seed(seed)
    source, target = pair
    more = spare or 0
    counts = (None, None) if spare is None else (count_of(len(source)), count_of(len(target)))
    rows = filled(len(target) + more)
    # Behind the source lies what an earlier frame left: keys that must not be found.
    behind = np.concatenate([source, np.sort(np.resize(target, more))]) if len(target) else source
    cuda.align(behind, len(behind), counts[0], target, len(rows), counts[1], rows)
    if spare is None:
        np.testing.assert_array_equal(rows, reference.align(source, target))
    else:
        np.testing.assert_array_equal(rows[: len(target)], reference.align(source, target))
        assert (rows[len(target) :] == UNTOUCHED).all()


@settings(max_examples=15, deadline=None)
@given(clouds(), SEED, st.sampled_from([None, 3]))
def test_split_neighbours(cloud: tuple[np.ndarray, np.ndarray], seed: int, spare: int | None) -> None:
    cuda = library()
    cuda.seed(seed)
    built = reference.build_octree(*cloud, 5, 2)
    more = spare or 0
    for d in range(2, 5):
        expected, children = built.split_neighbours[d], built.children[d]
        got = filled(len(expected) + more, 27)
        if d == 2:
            cuda.split_neighbours_of_grid(d, built.num_objects, children, got, len(got))
        else:
            parents = built.split_neighbours[d - 1]
            count = None if spare is None else count_of(len(parents))
            cuda.split_neighbours_from_parents(
                parents, len(parents) + more, count, children, got, len(got)
            )
        np.testing.assert_array_equal(got[: len(expected)], expected)
        assert (got[len(expected) :] == UNTOUCHED).all()


SPLITS_EXCEEDED, ROW_OUT_OF_RANGE, OBJECT_OUT_OF_RANGE, POINT_OUT_OF_RANGE = 1, 2, 8, 16  # ZgStatus


@dataclass
class Grown:
    children: np.ndarray
    split_rows: np.ndarray
    next_keys: np.ndarray
    counts: np.ndarray  # splits, next nodes, NaN, node 0 alone
    status: int


def grow(
    cuda: Library, logits: np.ndarray | None, rows: np.ndarray | None, keys: np.ndarray, *, last: bool = False,
    forced: np.ndarray | None = None, spare: int | None = None, max_splits: int | None = None,
) -> Grown:  # fmt: skip
    n, more = len(keys), spare or 0
    room = n + more if max_splits is None else max_splits
    out = Grown(filled(n + more), filled(room), filled(8 * room, dtype=np.int64), filled(4), 0)
    status = np.zeros(1, np.int32)
    kind = int(logits is not None and logits.dtype == np.float16)
    if rows is not None:
        rows = np.concatenate([rows, np.full(more, 10**6, np.int32)])
    elif logits is not None:
        logits = np.concatenate([logits, np.full((more, logits.shape[1]), np.nan, logits.dtype)])
    workspace = np.full(cuda.grow_workspace(n + more), 0x7F, np.uint8)
    count, stride = (0, 0) if logits is None else logits.shape
    cuda.grow(
        kind, logits, count, stride, rows, forced, keys, n + more, None if spare is None else count_of(n),
        int(not last), out.children, out.split_rows, room, None if last else out.next_keys, out.counts, status,
        workspace, workspace.size,
    )  # fmt: skip
    out.status = int(status[0])
    return out


def compare_growth(got: Grown, expected: reference.Growth, n: int) -> None:
    splits = len(expected.split_rows)
    np.testing.assert_array_equal(got.children[:n], expected.children)
    np.testing.assert_array_equal(got.split_rows[:splits], expected.split_rows)
    np.testing.assert_array_equal(got.next_keys[: len(expected.next_keys)], expected.next_keys)
    assert got.counts[:3].tolist() == [splits, 8 * splits, expected.nan_count]
    for buffer, used in ((got.children, n), (got.split_rows, splits), (got.next_keys, len(expected.next_keys))):
        assert (buffer[used:] == UNTOUCHED).all()


@settings(max_examples=4 if SANITIZED else 20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    SEED,
    st.sampled_from([1, 3, 40]),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    st.booleans(),
    st.sampled_from([np.float32, np.float16]),
    st.sampled_from([None, 0, 1500]),
)
def test_growth(
    seed: int, order: int, num_objects: int, share: float, by_rows: bool, kind: type, spare: int | None
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    keys = full_grid(num_objects, 2)
    parents: np.ndarray | int = 2
    for _ in range(2):
        count = max(1, len(keys) // 3) if by_rows else len(keys)
        rows = rng.integers(0, count, len(keys)).astype(np.int32) if by_rows else None
        logits = rng.integers(-2, 3, (count, 3)).astype(kind)  # ties
        logits[rng.random(count) >= share, 1] = -9
        logits[rng.random(count) < 0.02, rng.integers(0, 2)] = np.nan
        expected = reference.grow(logits.astype(np.float32), rows, keys, parents)
        got = grow(cuda, logits, rows, keys, spare=spare)
        compare_growth(got, expected, len(keys))
        assert got.status == 0
        last = reference.grow(logits.astype(np.float32), rows, keys, None)
        compare_growth(grow(cuda, logits, rows, keys, spare=spare, last=True), last, len(keys))
        forced = rng.random(len(keys)) < share
        recorded = np.resize(forced, len(keys) + (spare or 0)).view(np.uint8)
        compare_growth(
            grow(cuda, None, None, keys, forced=recorded, spare=spare),
            reference.grow(None, None, keys, parents, forced=forced), len(keys),
        )  # fmt: skip
        keys, parents = expected.next_keys, expected.split_neighbours


def test_growth_reports_what_only_the_device_sees() -> None:
    cuda, keys = library(), full_grid(2, 2)
    logits = np.tile(np.array([0, 1], np.float32), (128, 1))
    got = grow(cuda, logits, None, keys, max_splits=100)
    assert got.status == SPLITS_EXCEEDED
    np.testing.assert_array_equal(got.children, [*range(100), *[-1] * 28])
    assert got.counts.tolist() == [100, 800, 0, 0]
    got = grow(cuda, logits, np.full(128, 128, np.int32), keys)
    assert got.status == ROW_OUT_OF_RANGE
    assert got.counts.tolist() == [1, 8, 0, 1]


def build(
    cuda: Library, points: np.ndarray, owner: np.ndarray, num_objects: int, depth: int, full_depth: int,
    nodes: dict[int, int], voxels: int, spare: int | None = None,
) -> tuple[reference.Octree, np.ndarray, int]:  # fmt: skip
    """The octree with buffers as long as they were made, the counts and the status."""
    n, more = len(points), spare or 0
    depths = range(full_depth, depth + 1)
    keys = {d: filled(nodes[d], dtype=np.int64) for d in depths}
    children = {d: filled(nodes[d]) for d in depths}
    neighbours = {d: filled(nodes[d + 1] // 8, 27) for d in depths[:-1]}
    voxel, counts, status = filled(n + more), filled(len(depths), 4), np.zeros(1, np.int32)
    capacity = np.array([nodes[d] for d in depths], np.int64)

    def pointers(arrays: dict[int, np.ndarray]) -> np.ndarray:
        return np.array([arrays[d].ctypes.data if d in arrays else 0 for d in depths], np.uint64)

    points = np.concatenate([points, np.full((more, 3), np.nan, np.float32)])
    owner = np.concatenate([owner, np.full(more, 10**6, np.int32)])
    workspace = np.full(cuda.build_octree_workspace(n + more, int(capacity.max())), 0x7F, np.uint8)
    cuda.build_octree(
        points, owner, n + more, None if spare is None else count_of(n), num_objects, depth, full_depth, capacity,
        voxels, pointers(keys), pointers(children), pointers(neighbours), voxel, counts, status, workspace,
        workspace.size,
    )  # fmt: skip
    assert (voxel[n:] == UNTOUCHED).all()
    empty = np.zeros((0, 0), np.int64)
    octree = reference.Octree(depth, full_depth, num_objects, keys, children, neighbours, empty, empty, voxel[:n])
    return octree, counts, int(status[0])


def compare_builds(got: reference.Octree, expected: reference.Octree) -> None:
    np.testing.assert_array_equal(got.voxel, expected.voxel)
    for name in ("keys", "children", "split_neighbours"):
        for d, theirs in getattr(expected, name).items():
            ours = getattr(got, name)[d]
            np.testing.assert_array_equal(ours[: len(theirs)], theirs, err_msg=f"{name}[{d}]")
            assert (ours[len(theirs) :] == UNTOUCHED).all()


@settings(max_examples=3 if SANITIZED else 15, deadline=None)
@given(
    clouds(),
    SEED,
    st.sampled_from([(9, 3), (5, 3), (3, 3), (2, 0), (10, 2)]),
    st.sampled_from([None, 0, 70]),
    st.sampled_from([0, 64, 3000]),
    st.booleans(),
)
def test_build(
    cloud: tuple[np.ndarray, np.ndarray], order: int, depths: tuple[int, int], spare: int | None, room: int,
    mixed: bool,
) -> None:  # fmt: skip
    """The points need not be grouped by object."""
    cuda = library()
    cuda.seed(order)
    points, counts = cloud
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    expected = reference.build_octree(points, counts, *depths)
    shuffle = np.random.default_rng(0).permutation(len(points)) if mixed else np.arange(len(points))
    sizes = {d: len(k) + (room if d > depths[1] else 0) for d, k in expected.keys.items()}
    sizes = {d: max(n, 8) if d > depths[1] else n for d, n in sizes.items()}
    got, found, status = build(
        cuda, points[shuffle], owner[shuffle], len(counts), *depths, sizes, max(1, expected.batch_nnum_split[-1].sum()),
        spare,
    )  # fmt: skip
    back = np.empty_like(got.voxel)
    back[shuffle] = got.voxel
    got.voxel[:] = back
    compare_builds(got, expected)
    assert status == 0
    np.testing.assert_array_equal(found[:, 0], expected.batch_nnum_split[depths[1] :].sum(1))


def test_build_reports_what_only_the_device_sees() -> None:
    cuda = library()
    points = np.linspace(-0.9, 0.9, 300, dtype=np.float32).reshape(100, 3)
    owner = np.zeros(100, np.int32)
    expected = reference.build_octree(points, np.array([100], np.int32), 5, 2)
    sizes = {d: len(k) for d, k in expected.keys.items()}
    voxels = int(expected.batch_nnum_split[-1].sum())

    bad = points.copy()
    bad[7] = [0, np.nan, 0]
    bad[9] = [1, 0, 0]
    good = np.delete(np.arange(100), [7, 9, 11])
    wrong = owner.copy()
    wrong[11] = 1
    got, _, status = build(cuda, bad, wrong, 1, 5, 2, sizes, voxels)
    assert status == POINT_OUT_OF_RANGE | OBJECT_OUT_OF_RANGE
    assert (got.voxel[[7, 9, 11]] == -1).all()
    rest = reference.build_octree(points[good], np.array([97], np.int32), 5, 2)
    np.testing.assert_array_equal(got.voxel[good], rest.voxel)

    got, counts, status = build(cuda, points, owner, 1, 5, 2, {**sizes, 4: sizes[4] - 8}, voxels)
    assert status == SPLITS_EXCEEDED
    assert counts[1, 0] == sizes[4] // 8 - 1
    np.testing.assert_array_equal(got.keys[4], expected.keys[4][:-8])
    lost = got.voxel < 0
    assert lost.any()
    np.testing.assert_array_equal(got.voxel[~lost], expected.voxel[~lost])


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
def test_a_missing_barrier_is_found() -> None:
    no_barrier = '#include "cuda/platform.h"\n#define __syncthreads() static_cast<void>(0)\n#include "cuda/split.h"'
    broken, keys = planted("split", '#include "cuda/split.h"', no_barrier), full_grid(40, 2)
    logits = np.random.default_rng(1).normal(size=(len(keys), 2)).astype(np.float32)
    expected = reference.grow(logits, None, keys, 2)
    wrong = []
    for order in SEEDS:
        broken.seed(order)
        wrong.append(grow(broken, logits, None, keys).counts[0] != len(expected.split_rows))
    assert any(wrong)


def test_launchers_name_the_argument() -> None:
    cuda = library()
    table = np.full((2, 27), -1, np.int32)
    with pytest.raises(CudaError, match="neighbours: expected device memory, got null"):
        cuda.expand_neighbours(table, 2, None, None, None)
    with pytest.raises(CudaError, match=r"splits: expected 0 to \d+, got -1"):
        cuda.expand_neighbours(table, -1, None, None, table)
    with pytest.raises(CudaError, match="depth: expected 0 to 10, got 11"):
        cuda.split_neighbours_of_grid(11, 1, table, table, 1)
    with pytest.raises(CudaError, match="targets: expected"):
        cuda.align(None, 0, None, None, -3, None, None)


def test_status_bits_have_a_text() -> None:
    cuda = library()
    texts = {cuda.describe(1 << bit) for bit in range(12)}
    assert len(texts) == 12 and b"unknown status" not in texts
    assert cuda.describe(0) == b"no error" and cuda.describe(1 << 20) == b"unknown status"
