"""The reduced grid, the geometry of nodes and rows by number: the CUDA kernels, run on the CPU, against their twins."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library
from generators import full_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from test_octree_growth import key_sets

from zerograsp_edge.kernels.reference import octree as reference
from zerograsp_edge.runtime.grasp.decode import OctreeCube, node_coordinates

ROW_OUT_OF_RANGE, ROWS_EXCEEDED, KEY_OUT_OF_RANGE = 2, 256, 512  # ZgStatus
UNTOUCHED = -77
SEED = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from(SEEDS)
SPARE = st.sampled_from([None, 0, 150])


def active_grid(
    cuda: Library, keys: np.ndarray, objects: int, depth: int, radius: int, max_rows: int, *, packed: bool,
    spare: int | None = None,
) -> tuple[reference.ActiveGrid, int]:  # fmt: skip
    """The grid, cut to its rows, and the status; with `spare`, the buffer holds that many more keys."""
    rows = np.full(objects << (3 * depth), UNTOUCHED, np.int32)
    table, source = np.full(27 * max_rows, UNTOUCHED, np.int32), np.full(max_rows, UNTOUCHED, np.int32)
    counts, status = np.full(4, UNTOUCHED, np.int32), np.zeros(1, np.int32)
    workspace = np.full(cuda.active_grid_workspace(objects, depth), 0x7F, np.uint8)
    whole = np.concatenate([keys, np.full(spare or 0, 1 << 60, np.int64)])
    cuda.active_grid(
        whole, len(whole), None if spare is None else count_of(len(keys)), objects, depth, radius, rows, table, source,
        max_rows, int(packed), counts, status, workspace, workspace.size,
    )  # fmt: skip
    count, active = int(counts[0]), int(counts[1])
    if packed:
        neighbours, behind = table[: 27 * count].reshape(27, count), table[27 * count :]
    else:
        neighbours, behind = table.reshape(27, max_rows)[:, :count], table.reshape(27, max_rows)[:, count:]
    assert (behind == UNTOUCHED).all() and (source[count:] == UNTOUCHED).all()
    return reference.ActiveGrid(rows, neighbours, source[:count], active), int(status[0])


def compare(got: reference.ActiveGrid, expected: reference.ActiveGrid) -> None:
    assert got.num_active == expected.num_active
    for name in ("rows", "neighbours", "source"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@settings(max_examples=5 if SANITIZED else 30, deadline=None)
@given(key_sets(), ORDER, st.booleans(), SPARE)
def test_active_grid(case: tuple[np.ndarray, int, int, int], order: int, packed: bool, spare: int | None) -> None:
    cuda = library()
    cuda.seed(order)
    _, objects, depth, radius = case
    max_rows = (objects << (3 * depth)) + (2 * radius + 1) ** 3
    got, status = active_grid(cuda, *case, max_rows, packed=packed, spare=spare)
    assert status == 0
    compare(got, reference.active_grid(*case))


@pytest.mark.slow
def test_active_grid_of_a_frame(golden: dict[str, np.ndarray]) -> None:
    keys, objects = golden["in/keys4"], len(golden["obj_ids"])
    got, _ = active_grid(library(), keys, objects, 4, 2, (objects << 12) + 125, packed=True)
    compare(got, reference.active_grid(keys, objects))


def test_active_grid_reports_what_only_the_device_sees() -> None:
    cuda = library()
    keys = np.array([5, 70, (1 << 48) + 511, (1 << 48) + 512, 2 << 48])
    got, status = active_grid(cuda, keys, 2, 3, 1, 2000, packed=True)
    assert status == KEY_OUT_OF_RANGE
    expected = reference.active_grid(keys[:3], 2, 3, 1)
    source = np.where(expected.source == 3, 5, expected.source)  # what has no key names their number
    compare(got, reference.ActiveGrid(expected.rows, expected.neighbours, source, expected.num_active))
    room = expected.num_active - 3 + 27
    got, status = active_grid(cuda, keys[:3], 2, 3, 1, room, packed=False)
    assert status == ROWS_EXCEEDED and got.num_active == room - 27
    kept = expected.rows < room - 27
    np.testing.assert_array_equal(got.rows[kept], expected.rows[kept])
    assert got.rows.max() < room and got.neighbours.max() < room


@settings(max_examples=5 if SANITIZED else 30, deadline=None)
@given(SEED, ORDER, st.integers(1, 10), st.sampled_from([0, 1, 300]), SPARE, st.integers(0, 7))
def test_geometry(seed: int, order: int, depth: int, n: int, spare: int | None, wanted: int) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    keys = rng.integers(0, 8**depth, n) | rng.integers(0, 40, n) << 48
    cube = OctreeCube(float(np.float32(rng.uniform(-500, 2000))), float(rng.choice([80.0, 33.3])), 4, depth)
    nodes, object_index = node_coordinates(keys)
    more = spare or 0
    centres, positions = np.full((2, n + more, 3), UNTOUCHED, np.float32)
    owner = np.full(n + more, UNTOUCHED, np.int32)
    cuda.node_geometry(
        np.concatenate([keys, np.zeros(more, np.int64)]), n + more, None if spare is None else count_of(n), depth,
        cube.edge / 2, np.array([cube.z_min], np.float32), *(
            array if wanted >> bit & 1 else None for bit, array in enumerate((centres, positions, owner))
        ),
    )  # fmt: skip
    expected = (
        cube.node_centres(nodes, depth),
        (nodes.astype(np.float32) + np.float32(0.5)) * np.float32(2.0 ** (1 - depth)) - 1,  # as runtime/network.py
        object_index,
    )
    for bit, (array, values) in enumerate(zip((centres, positions, owner), expected, strict=True)):
        if wanted >> bit & 1:
            np.testing.assert_array_equal(array[:n], values)
            assert (array[n:] == UNTOUCHED).all()
        else:
            assert (array == UNTOUCHED).all()


@settings(max_examples=10 if SANITIZED else 60, deadline=None)
@given(
    SEED, ORDER, st.sampled_from([1, 2, 5, 8, 12, 36, 56]), st.sampled_from([0, 1, 8, 4]), st.sampled_from([1, 50]),
    st.sampled_from([0, 1, 200]), SPARE, st.booleans(),
)  # fmt: skip
def test_gathered_rows(
    seed: int, order: int, row_bytes: int, gap: int, rows: int, n: int, spare: int | None, wrong: bool
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    table = rng.integers(0, 256, (rows, row_bytes + gap)).astype(np.uint8)
    index = rng.integers(0, rows, n).astype(np.int32)
    if wrong:
        index[rng.random(n) < 0.1] = rng.choice([-1, rows])
    outside = (index < 0) | (index >= rows)
    more = spare or 0
    to, status = np.full((n + more, row_bytes), 7, np.uint8), np.zeros(1, np.int32)
    cuda.gather_rows(
        table, rows, table.shape[1], row_bytes, np.append(index, np.full(more, 10**6, np.int32)), n + more,
        None if spare is None else count_of(n), to, status,
    )  # fmt: skip
    np.testing.assert_array_equal(to[:n], np.where(outside[:, None], 0, table[np.where(outside, 0, index), :row_bytes]))
    assert (to[n:] == 7).all()
    assert status[0] == (ROW_OUT_OF_RANGE if outside.any() else 0)


def test_columns_of_a_table() -> None:
    """A table's columns are its address moved along: the signal behind the logits."""
    table = np.arange(60, dtype=np.float32).reshape(6, 10)
    to = np.zeros((3, 4), np.float32)
    library().gather_rows(table.ctypes.data + 8, 6, 40, 16, np.array([5, 0, 2], np.int32), 3, None, to, None)
    np.testing.assert_array_equal(to, table[[5, 0, 2], 2:6])


def test_launchers_name_the_argument() -> None:
    cuda, some = library(), np.zeros(8, np.int32)
    with pytest.raises(CudaError, match="max_rows: expected 126 to"):
        cuda.active_grid(some, 1, None, 1, 4, 2, some, some, some, 125, 0, some, None, some, 0)
    with pytest.raises(CudaError, match="max_rows: expected 64 to"):  # no virtual rows: every node needs one
        cuda.active_grid(some, 1, None, 1, 2, 2, some, some, some, 63, 0, some, None, some, 0)
    with pytest.raises(CudaError, match=r"workspace: expected at least \d+ bytes, got 8"):
        cuda.active_grid(some, 1, None, 1, 4, 2, some, some, some, 8000, 0, some, None, some, 8)
    with pytest.raises(CudaError, match="z_min: expected device memory, got null"):
        cuda.node_geometry(full_grid(1, 1), 8, None, 1, 640.0, None, some, None, None)
    with pytest.raises(CudaError, match="from_stride: expected 12 to"):
        cuda.gather_rows(some, 1, 8, 12, some, 1, None, some, None)
