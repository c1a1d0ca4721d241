"""Neighbours, alignment, growth and build of octrees: the CUDA kernels, run on the CPU, against their NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_library import SEEDS, CudaError, count_of, library
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
    texts = {cuda.describe(1 << bit) for bit in range(6)}
    assert len(texts) == 6 and b"unknown status" not in texts
    assert cuda.describe(0) == b"no error" and cuda.describe(1 << 20) == b"unknown status"
