"""Points, voxel features, mask neighbours: native kernels against twins and reference vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from generators import frames
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels import octree, points
from zerograsp_edge.kernels.checks import CapacityError
from zerograsp_edge.kernels.reference import points as reference
from zerograsp_edge.kernels.workspace import Workspace

K = np.array([[60, 0, 31.5], [0, 62, 20.25], [0, 0, 1]], np.float32)


def golden_frame(golden: dict[str, np.ndarray], frames_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) float32 in mm and labels (H, W) int32 of a reference case."""
    image = pytest.importorskip("PIL.Image")
    case = str(golden["case"])
    depth = cv2.imread(str(frames_dir / f"{case}.depth.png"), cv2.IMREAD_UNCHANGED)
    mask = np.array(
        image.open(frames_dir / f"{case}.mask.png")
    )  # a palette image: its indices are the objects
    rows = slice(14, 526) if case == "007" else slice(None)
    labels = np.full(mask[rows].shape, -1, np.int32)
    for index, value in enumerate(np.unique(mask)[1:]):
        labels[mask[rows] == value] = index
    return np.ascontiguousarray(depth[rows], np.float32), labels


@settings(max_examples=80, deadline=None)
@given(frames(), st.sampled_from([1, 2, 3]))
def test_points_equal_twin(frame: tuple[np.ndarray, np.ndarray, int], threads: int) -> None:
    depth, labels, num_objects = frame
    valid_labels = np.empty_like(labels)
    got = points.points_from_depth(depth, labels, K, num_objects, valid_labels=valid_labels, threads=threads)
    expected = reference.points_from_depth(depth, labels, K, num_objects)
    np.testing.assert_array_equal(got.points, expected.points)
    np.testing.assert_array_equal(got.counts, expected.counts)
    np.testing.assert_array_equal(got.valid_counts, expected.valid_counts)
    np.testing.assert_equal(got.z_min, expected.z_min)
    valid = np.isfinite(depth) & (depth > 10)
    np.testing.assert_array_equal(valid_labels, np.where(valid, labels, -1))


@pytest.mark.parametrize(
    ("pixel", "far"),
    [((20, 0), 1300), ((20, 63), 1300), ((0, 31), 2000), ((40, 31), 2000), ((20, 32), 1600)],
    ids=["left", "right", "above", "below", "behind"],
)
def test_each_side_of_the_cube_clips(pixel: tuple[int, int], far: float) -> None:
    depth, labels = np.zeros((41, 64), np.float32), np.zeros((41, 64), np.int32)
    depth[20, 31] = 700 if pixel == (20, 32) else far  # a point on the optical axis stays
    depth[pixel] = far
    got = points.points_from_depth(depth, labels, K, 1)
    assert got.counts == [1] and got.valid_counts == [2]
    np.testing.assert_array_equal(got.points, reference.points_from_depth(depth, labels, K, 1).points)
    assert np.abs(got.points[0, :2]).max() < 0.05


def test_points_are_the_published_ones(golden: dict[str, np.ndarray], frames_dir: Path) -> None:
    depth, labels = golden_frame(golden, frames_dir)
    got = points.points_from_depth(depth, labels, golden["K"], len(golden["obj_ids"]))
    np.testing.assert_array_equal(got.points, golden["points"])
    np.testing.assert_array_equal(got.counts, golden["mask_self_count"])
    assert got.z_min == golden["z_min"][0]


def test_points_reuse_workspace_and_buffer() -> None:
    rng = np.random.default_rng(0)
    workspace, buffer = Workspace(), np.empty((5000, 3), np.float32)
    for height, width in [(20, 30), (64, 70), (3, 5), (50, 60)]:
        labels = rng.integers(-1, 3, (height, width)).astype(np.int32)
        depth = rng.uniform(500, 900, labels.shape).astype(np.float32)
        got = points.points_from_depth(depth, labels, K, 3, out=buffer, workspace=workspace)
        assert np.shares_memory(got.points, buffer)
        np.testing.assert_array_equal(got.points, reference.points_from_depth(depth, labels, K, 3).points)


def test_points_errors_name_the_argument() -> None:
    depth, labels = np.full((8, 8), 700, np.float32), np.zeros((8, 8), np.int32)
    with pytest.raises(CapacityError, match="points: 64 needed, but the buffer holds 63"):
        points.points_from_depth(depth, labels, K, 1, out=np.empty((63, 3), np.float32))
    with pytest.raises(ValueError, match=r"labels: expected -1 to 0 .* got 4"):
        points.points_from_depth(depth, labels + 4, K, 1)
    with pytest.raises(ValueError, match=r"labels: .* got -2"):
        points.points_from_depth(depth, labels - 2, K, 1)
    with pytest.raises(
        ValueError, match=r"depth: expected a C-contiguous float32 array .* got C-contiguous float64"
    ):
        points.points_from_depth(depth.astype(np.float64), labels, K, 1)
    with pytest.raises(ValueError, match=r"depth: .* got non-contiguous"):
        points.points_from_depth(np.full((8, 16), 700, np.float32)[:, ::2], labels, K, 1)
    with pytest.raises(ValueError, match="intrinsics: expected an invertible"):
        points.points_from_depth(depth, labels, np.zeros((3, 3), np.float32), 1)


def feature_case(seed: int, count: int, spread: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Points, their voxels and the number of voxels; some points project beyond the image."""
    rng = np.random.default_rng(seed)
    cloud = (rng.uniform(-spread, spread, (count, 3))).astype(np.float32)
    built = octree.build_octree(cloud, np.array([count], np.int32))
    return cloud, built.voxel, int(built.nnum_split[9])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 7, 600, 2500]),
    st.sampled_from([0.001, 0.02, 0.2, 0.95]),
    st.sampled_from([0, 1, 3, 8, 13]),
    st.sampled_from([(41, 64, 41, 64), (41, 63, 64, 64), (2, 3, 2, 4)]),
)
def test_voxel_features_equal_twin(
    seed: int, count: int, spread: float, channels: int, size: tuple[int, int, int, int]
) -> None:
    height, width, padded_height, padded_width = size
    cloud, voxel, num_voxels = feature_case(seed, count, spread)
    image = (
        np.random.default_rng(seed)
        .standard_normal((channels, padded_height, padded_width))
        .astype(np.float32)
    )
    arguments = (cloud, voxel, num_voxels, image if channels else None, K, 80.0, (height, width))
    expected = reference.voxel_features(*arguments)
    one, two = points.voxel_features(*arguments, threads=1), points.voxel_features(*arguments, threads=3)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[:, :3], expected[:, :3])
    # Positions reach 64 pixels, whose float32 has steps of 4e-6: a weight is no more exact than that.
    np.testing.assert_allclose(one, expected, atol=5e-5)


@pytest.mark.parametrize("image_type", [np.float32, np.float16])
@pytest.mark.parametrize("out_type", [np.float32, np.float16])
@pytest.mark.parametrize("channels", [0, 3, 32])
def test_voxel_features_in_half_precision(image_type: type, out_type: type, channels: int) -> None:
    """A half is exact in float32; the result is rounded once."""
    cloud, voxel, num_voxels = feature_case(5, 3000, 0.3)
    image = np.random.default_rng(1).standard_normal((channels, 41, 67)).astype(image_type)
    size = (41, 64)
    wide = points.voxel_features(
        cloud, voxel, num_voxels, image.astype(np.float32) if channels else None, K, 80.0, size
    )
    out = np.full((num_voxels + 2, 3 + channels), 7, out_type)
    got = points.voxel_features(cloud, voxel, num_voxels, image if channels else None, K, 80.0, size, out=out)
    np.testing.assert_array_equal(got, wide.astype(out_type))
    np.testing.assert_array_equal(out[num_voxels:], 7)
    with pytest.raises(ValueError, match="voxels: expected a C-contiguous float32 array"):
        wrong = np.empty(out.shape, np.float64)
        points.voxel_features(cloud, voxel, num_voxels, None, K, 80.0, size, out=wrong)


def test_voxel_features_are_grid_sample() -> None:
    torch = pytest.importorskip("torch")
    cloud, voxel, num_voxels = feature_case(3, 3000, 0.3)
    image = np.random.default_rng(0).standard_normal((5, 48, 64)).astype(np.float32)
    height, width = 41, 50
    position = torch.from_numpy(reference.project(cloud, K, 80.0, (height, width)))[None, :, None]
    cropped = torch.from_numpy(image[None, :, :height, :width].copy())
    sampled = torch.nn.functional.grid_sample(cropped, position, align_corners=True)[0, :, :, 0].T  # (P, C)
    total = torch.zeros(num_voxels, 5).index_add(0, torch.from_numpy(voxel).long(), sampled)
    expected = total.numpy() / np.bincount(voxel)[:, None]
    got = points.voxel_features(cloud, voxel, num_voxels, image, K, 80.0, (height, width))
    np.testing.assert_allclose(got[:, 3:], expected, atol=5e-5)
    assert np.abs(expected).max() > 1


def test_local_offsets_are_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    counts = np.bincount(np.searchsorted(golden["obj_ids"], golden["labels"])).astype(np.int32)
    built = octree.build_octree(golden["points"], counts)
    size = tuple(int(n) for n in golden["image_hw"])
    voxels = int(built.nnum_split[9])
    got = points.voxel_features(
        golden["points"], built.voxel, voxels, None, golden["K"], float(golden["z_min"][0]), size
    )
    mean = golden["in/points9"]
    np.testing.assert_allclose(got, mean - np.trunc(mean) - 0.5, atol=1e-6)
    # The network's input has a row for every node at depth 9, zero where it is empty.
    rows = golden["in/input_feature/rows"]
    rank = built.children[9][rows]
    expected = np.where(rank[:, None] >= 0, got[rank], 0)
    np.testing.assert_allclose(golden["in/input_feature/val"][:, :3], expected, atol=1e-6)


def test_voxel_features_errors() -> None:
    cloud, voxel, num_voxels = feature_case(0, 50, 0.3)
    with pytest.raises(ValueError, match="voxel: expected every index"):
        points.voxel_features(cloud, voxel, num_voxels + 1, None, K, 0.0, (41, 64))
    with pytest.raises(ValueError, match="voxel: expected every index"):
        points.voxel_features(cloud, voxel, num_voxels - 1, None, K, 0.0, (41, 64))
    with pytest.raises(ValueError, match="image_features: expected at least 41 rows and 64 columns"):
        points.voxel_features(cloud, voxel, num_voxels, np.zeros((1, 41, 63), np.float32), K, 0.0, (41, 64))
    with pytest.raises(CapacityError, match="voxels"):
        out = np.empty((num_voxels - 1, 3), np.float32)
        points.voxel_features(cloud, voxel, num_voxels, None, K, 0.0, (41, 64), out=out)


@settings(max_examples=60, deadline=None)
@given(frames(), st.sampled_from([1, 3]))
def test_adjacency_equals_dilation(frame: tuple[np.ndarray, np.ndarray, int], threads: int) -> None:
    _, labels, num_objects = frame
    got = points.adjacency(labels, num_objects, threads=threads)
    np.testing.assert_array_equal(got, reference.adjacency(labels, num_objects))


@pytest.mark.parametrize(("gap", "expected"), [(4, 1), (5, 0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_adjacency_reaches_four_pixels(gap: int, expected: int, axis: int) -> None:
    labels = np.full((70, 70), -1, np.int32)
    labels[30, 30] = 0
    labels[(30 + gap, 26) if axis == 0 else (26, 30 + gap)] = 1
    np.testing.assert_array_equal(points.adjacency(labels, 2), [[0, expected], [expected, 0]])


def test_neighbour_masks_are_the_published_ones(golden: dict[str, np.ndarray], frames_dir: Path) -> None:
    depth, labels = golden_frame(golden, frames_dir)
    count = len(golden["obj_ids"])
    adjacent = points.adjacency(labels, count).astype(bool)
    valid = np.where(depth > 10, labels, -1)
    masks = np.stack([np.isin(valid, np.flatnonzero(row)) for row in adjacent])
    np.testing.assert_array_equal(masks.sum((1, 2)), golden["mask_neighbour_count"])
    assert hashlib.sha256(np.packbits(masks).tobytes()).hexdigest() == str(golden["mask_neighbour_sha256"])


def test_adjacency_errors() -> None:
    with pytest.raises(ValueError, match=r"labels: expected -1 to 1 .* got 2"):
        points.adjacency(np.full((3, 3), 2, np.int32), 2)
