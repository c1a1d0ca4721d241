"""Padding, labels, kept objects, voxel features and visible points: the CUDA kernels, run on the CPU, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import frames
from hypothesis import given, settings
from hypothesis import strategies as st
from test_points import K, feature_case

from zerograsp_edge.kernels.reference import points as reference
from zerograsp_edge.runtime.grasp.refine import visible_points

LABEL_OUT_OF_RANGE, POINTS_EXCEEDED, VOXEL_OUT_OF_RANGE = 4, 64, 128  # ZgStatus
TYPES = {np.float32: 0, np.float16: 1}
UNTOUCHED = -77
SEED = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from(SEEDS)
SPARE = st.sampled_from([None, 0, 300])


@settings(max_examples=10 if SANITIZED else 40, deadline=None)
@given(SEED, ORDER, st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_padding(seed: int, order: int, height: int, width: int, below: int, right: int, in_words: bool) -> None:
    cuda = library()
    cuda.seed(order)
    if in_words:  # widths that are multiples of four, as most are
        width, right = 4 * width, 4 * right
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    padded = np.full((height + below, width + right, 3), 7, np.uint8)
    cuda.pad_image(rgb, height, width, *padded.shape[:2], padded)
    np.testing.assert_array_equal(padded, np.pad(rgb, ((0, below), (0, right), (0, 0)), mode="edge"))


@settings(max_examples=10 if SANITIZED else 40, deadline=None)
@given(SEED, ORDER, st.sampled_from([np.uint8, np.uint16, np.int32]), st.sampled_from([0, 1, 300, 700]), SPARE)
def test_relabelling(seed: int, order: int, kind: type, n: int, spare: int | None) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    low = int(rng.integers(0, 200)) - (100 if kind is np.int32 else 0)
    table = rng.integers(-1, 40, int(rng.integers(1, 60))).astype(np.int32)
    values = (low + rng.integers(0, len(table), n)).astype(kind)
    outside = rng.random(n) < rng.choice([0.0, 0.1])
    values[outside] = low + len(table)
    more = spare or 0
    whole = np.concatenate([values, np.zeros(more, kind)])
    labels, status = np.full(n + more, UNTOUCHED, np.int32), np.zeros(1, np.int32)
    count = None if spare is None else count_of(n)
    cuda.relabel(whole, whole.itemsize, n + more, count, low, table, len(table), labels, status)
    at = values.astype(np.int64) - low
    np.testing.assert_array_equal(labels[:n], np.where(outside, -1, np.append(table, -1)[np.minimum(at, len(table))]))
    assert (labels[n:] == UNTOUCHED).all()
    assert status[0] == (LABEL_OUT_OF_RANGE if outside.any() else 0)


@settings(max_examples=10 if SANITIZED else 40, deadline=None)
@given(SEED, ORDER, st.sampled_from([1, 5, 255, 256, 257, 700]), st.sampled_from([0, 3, 10]))
def test_objects_that_go_on(seed: int, order: int, objects: int, minimum: int) -> None:
    """Their table relabels in place, as the frame's second scan needs it."""
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    counts = rng.integers(0, 10, objects).astype(np.int32)
    table, kept, kept_count = (np.full(n, UNTOUCHED, np.int32) for n in (objects + 1, objects, 1))
    cuda.keep_objects(counts, objects, minimum, table, kept, kept_count)
    expected = np.flatnonzero(counts >= minimum)
    assert kept_count[0] == len(expected)
    np.testing.assert_array_equal(kept, np.append(expected, np.full(objects - len(expected), -1)))
    new_index = np.full(objects + 1, -1)
    new_index[1 + expected] = np.arange(len(expected))
    np.testing.assert_array_equal(table, new_index)
    labels = rng.integers(-1, objects, 500).astype(np.int32)
    relabelled, status = labels.copy(), np.zeros(1, np.int32)
    cuda.relabel(relabelled, 4, 500, None, -1, table, objects + 1, relabelled, status)
    np.testing.assert_array_equal(relabelled, new_index[labels + 1])
    assert status[0] == 0


def voxel_features(
    cuda: Library, points: np.ndarray, voxel: np.ndarray, voxels: int, image: np.ndarray | None, z_min: float,
    size: tuple[int, int], kind: type, spare: int | None = None,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Features and status; with `spare`, the buffers hold that many more points and voxels."""
    more = spare or 0
    channels, *padded = (0, 0, 0) if image is None else image.shape
    features = np.full((voxels + more, 3 + channels), UNTOUCHED, kind)
    counts = (None, None) if spare is None else (count_of(len(points)), count_of(voxels))
    points = np.concatenate([points, np.full((more, 3), np.nan, np.float32)])
    voxel = np.concatenate([voxel, np.full(more, 10**6, np.int32)])
    workspace = np.full(cuda.voxel_features_workspace(len(points), len(features)), 0x7F, np.uint8)
    status = np.zeros(1, np.int32)
    cuda.voxel_features(
        TYPES[np.float32 if image is None else image.dtype.type], image, channels, *padded, points, voxel,
        len(points), counts[0], len(features), counts[1], K, np.array([z_min], np.float32), 640.0, *size, 9,
        TYPES[kind], features, status, workspace, workspace.size,
    )  # fmt: skip
    assert (features[voxels:] == UNTOUCHED).all()
    return features[:voxels], int(status[0])


@settings(max_examples=4 if SANITIZED else 30, deadline=None)
@given(
    SEED, ORDER, st.sampled_from([1, 7, 600, 2500]), st.sampled_from([0.001, 0.02, 0.2, 0.95]),
    st.sampled_from([0, 1, 3, 8, 13]), st.sampled_from([(41, 64, 41, 64), (41, 63, 64, 64), (2, 3, 2, 4)]),
    st.sampled_from(list(TYPES)), st.sampled_from(list(TYPES)), SPARE, st.booleans(),
)  # fmt: skip
def test_voxel_features(
    seed: int, order: int, count: int, spread: float, channels: int, size: tuple[int, int, int, int],
    image_kind: type, kind: type, spare: int | None, lost: bool,
) -> None:  # fmt: skip
    """The sums are the twin's bit by bit, in whatever order the points are counted."""
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    height, width, padded_height, padded_width = size
    points, voxel, voxels = feature_case(seed, count, spread)
    image = rng.standard_normal((channels, padded_height, padded_width)).astype(image_kind) if channels else None
    whole = None if image is None else image.astype(np.float32)
    expected = reference.voxel_features(points, voxel, voxels, whole, K, 80.0, (height, width))
    if image is not None:  # what lies beyond the image is not to be read
        image[:, height:], image[:, :, width:] = np.nan, np.nan
    if lost:  # points that the octree had no room for
        where = np.sort(rng.integers(0, count + 1, 5))
        points, voxel = np.insert(points, where, np.nan, axis=0), np.insert(voxel, where, -1)
    got, status = voxel_features(cuda, points, voxel, voxels, image, 80.0, (height, width), kind, spare)
    assert status == 0
    np.testing.assert_array_equal(got, expected.astype(kind))


@pytest.mark.slow
def test_local_offsets_are_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    from zerograsp_edge.kernels import octree

    counts = np.bincount(np.searchsorted(golden["obj_ids"], golden["labels"])).astype(np.int32)
    built = octree.build_octree(golden["points"], counts)
    voxels = int(built.nnum_split[9])
    got, _ = voxel_features(library(), golden["points"], built.voxel, voxels, None, 0.0, (1, 1), np.float32)
    mean = golden["in/points9"]
    np.testing.assert_allclose(got, mean - np.trunc(mean) - 0.5, atol=1e-6)


def test_voxel_features_report_what_only_the_device_sees() -> None:
    cuda = library()
    points, voxel, voxels = feature_case(0, 50, 0.3)
    image = np.ones((2, 41, 64), np.float32)
    whole, status = voxel_features(cuda, points, voxel, voxels, image, 80.0, (41, 64), np.float32)
    assert status == 0
    got, status = voxel_features(cuda, points, voxel, voxels + 1, image, 80.0, (41, 64), np.float32)
    assert status == VOXEL_OUT_OF_RANGE
    np.testing.assert_array_equal(got, np.append(whole, np.zeros((1, 5), np.float32), axis=0))
    got, status = voxel_features(cuda, points, voxel, voxels - 1, image, 80.0, (41, 64), np.float32)
    assert status == VOXEL_OUT_OF_RANGE
    np.testing.assert_array_equal(got, whole[:-1])


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize(
    "change",
    [
        ("sort_ascending(p.order + begin, count);", ""),  # sums in the order of the atomics
        ("if (child + 1 < count && heap[child + 1] > heap[child]) ++child;", ""),  # no heap
    ],
)
def test_planted_mistakes_are_found(change: tuple[str, str]) -> None:
    broken = planted("voxel_features", *change)
    points, voxel, voxels = feature_case(3, 2500, 0.001 if "heap" in change[0] else 0.02)
    expected = reference.voxel_features(points, voxel, voxels, None, K, 80.0, (41, 64))
    wrong = []
    for order in SEEDS:
        broken.seed(order)
        try:
            got = voxel_features(broken, points, voxel, voxels, None, 80.0, (41, 64), np.float32)[0]
        except CudaError:
            wrong.append(True)
        else:
            wrong.append(not np.array_equal(got, expected))
    assert any(wrong)


def visible(
    cuda: Library, depth: np.ndarray, stride: int, plane: np.ndarray | None, before: int | None, max_points: int
) -> tuple[np.ndarray, int, int]:
    """The buffer, its count and the status."""
    points = np.full((max_points, 3), UNTOUCHED, np.float32)
    counts, status = np.full(4, UNTOUCHED, np.int32), np.zeros(1, np.int32)
    workspace = np.full(cuda.visible_points_workspace(*depth.shape, stride), 0x7F, np.uint8)
    cuda.visible_points(
        depth, *depth.shape, K, stride, 10.0, plane, None if before is None else count_of(before), points,
        max_points, counts, status, workspace, workspace.size,
    )  # fmt: skip
    assert (points[: before or 0] == UNTOUCHED).all() and (points[counts[0] :] == UNTOUCHED).all()
    return points, int(counts[0]), int(status[0])


@settings(max_examples=5 if SANITIZED else 40, deadline=None)
@given(frames(), ORDER, st.sampled_from([1, 2, 5, 10**6]), st.booleans(), st.sampled_from([None, 0, 13]))
def test_visible_points(
    frame: tuple[np.ndarray, np.ndarray, int], order: int, stride: int, cut: bool, before: int | None
) -> None:
    cuda, depth = library(), frame[0]
    cuda.seed(order)
    plane = np.array([0.1, -0.2, -1, -0.7], np.float32) if cut else None
    expected = visible_points(depth, K, stride)
    if plane is not None:
        x, y, z = (expected * plane[:3]).T
        expected = expected[(x + y) + z > plane[3]]
    points, count, status = visible(cuda, depth, stride, plane, before, depth.size + 20)
    assert status == 0
    np.testing.assert_array_equal(points[before or 0 : count], expected)
    if len(expected) > 1:  # the first ones fit
        room = (before or 0) + len(expected) - 1
        points, count, status = visible(cuda, depth, stride, plane, before, room)
        assert status == POINTS_EXCEEDED and count == room
        np.testing.assert_array_equal(points[before or 0 :], expected[:-1])


@pytest.mark.slow
def test_visible_points_of_a_frame(frames_dir: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    depth = cv2.imread(str(frames_dir / "000.depth.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
    points, count, _ = visible(library(), depth, 5, None, None, depth.size)
    np.testing.assert_array_equal(points[:count], visible_points(depth, K))


def test_launchers_name_the_argument() -> None:
    cuda = library()
    with pytest.raises(CudaError, match="padded_width: expected 9 to"):
        cuda.pad_image(None, 8, 9, 8, 8, None)
    with pytest.raises(CudaError, match="value_bytes: expected 1, 2 or 4, got 8"):
        cuda.relabel(None, 8, 0, None, 0, None, 0, None, None)
    with pytest.raises(CudaError, match="objects: expected 1 to 32767, got 0"):
        cuda.keep_objects(None, 0, 0, None, None, None)
    some = np.zeros(4, np.int32)
    plane = np.array([0, 0, 1, np.nan], np.float32)
    with pytest.raises(CudaError, match="plane: expected four finite numbers"):
        cuda.visible_points(some, 1, 1, some, 1, 10.0, plane, None, some, 1, some, None, some, 0)
    with pytest.raises(CudaError, match="half_extent: expected a length in mm, got -1"):
        cuda.voxel_features(
            0, some, 1, 1, 1, some, some, 1, None, 1, None, some, some, -1.0, 1, 1, 9, 0, some, None, some, 0
        )
    with pytest.raises(CudaError, match=r"image_type: expected 0 \(float32\) or 1 \(float16\), got 2"):
        workspace = np.zeros(4096, np.uint8)
        cuda.voxel_features(
            2, some, 1, 1, 1, some, some, 0, None, 0, None, some, some, 1.0, 1, 1, 9, 0, some, None, workspace, 4096
        )
