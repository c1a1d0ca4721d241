"""Points of a frame and neighbouring masks: the CUDA kernels, run on the CPU, against their NumPy twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, Library, library
from generators import frames
from hypothesis import given, settings
from hypothesis import strategies as st
from test_points import K, golden_frame

from zerograsp_edge.kernels.reference import points as reference

LABEL_OUT_OF_RANGE, POINTS_EXCEEDED = 4, 64  # ZgStatus
UNTOUCHED = -77
SEED = st.sampled_from(SEEDS)


def points_from_depth(
    cuda: Library, depth: np.ndarray, labels: np.ndarray, intrinsics: np.ndarray, objects: int, max_points: int
) -> tuple[reference.PointSet, np.ndarray, np.ndarray, int]:
    """Points in raster order, their objects, the valid labels and the status."""
    inverse = np.linalg.inv(intrinsics.astype(np.float64)).astype(np.float32)
    points, owner = np.full((max_points, 3), UNTOUCHED, np.float32), np.full(max_points, UNTOUCHED, np.int32)
    valid_labels, z_min = np.empty_like(labels), np.zeros(1, np.float32)
    counts, status = np.full(4, UNTOUCHED, np.int32), np.zeros(1, np.int32)
    inside, valid = np.full((2, objects), UNTOUCHED, np.int32)
    workspace = np.full(cuda.points_from_depth_workspace(*depth.shape), 0x7F, np.uint8)
    cuda.points_from_depth(
        depth, labels, *depth.shape, objects, inverse, 80.0, 5.0, 640.0, 0.01, 10.0, valid_labels, points, owner,
        max_points, z_min, counts, inside, valid, status, workspace, workspace.size,
    )  # fmt: skip
    n = counts[0]
    assert (points[n:] == UNTOUCHED).all() and (owner[n:] == UNTOUCHED).all()
    return reference.PointSet(points[:n], inside, float(z_min[0]), valid), owner[:n], valid_labels, int(status[0])


def compare(got: reference.PointSet, owner: np.ndarray, expected: reference.PointSet) -> None:
    """The twin's points are grouped by object."""
    order = np.argsort(owner, kind="stable")
    np.testing.assert_array_equal(got.points[order], expected.points)
    np.testing.assert_array_equal(np.bincount(owner, minlength=len(expected.counts)), expected.counts)
    np.testing.assert_array_equal(got.counts, expected.counts)
    np.testing.assert_array_equal(got.valid_counts, expected.valid_counts)
    np.testing.assert_equal(got.z_min, expected.z_min)


@settings(max_examples=5 if SANITIZED else 40, deadline=None)
@given(frames(), SEED)
def test_points(frame: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    depth, labels, objects = frame
    cuda = library()
    cuda.seed(seed)
    got, owner, valid_labels, status = points_from_depth(cuda, depth, labels, K, objects, depth.size + 5)
    assert status == 0
    compare(got, owner, reference.points_from_depth(depth, labels, K, objects))
    valid = np.isfinite(depth) & (depth > 10)
    np.testing.assert_array_equal(valid_labels, np.where(valid, labels, -1))


@pytest.mark.slow
def test_points_are_the_published_ones(golden: dict[str, np.ndarray], frames_dir: Path) -> None:
    depth, labels = golden_frame(golden, frames_dir)
    objects = len(golden["obj_ids"])
    got, owner, _, status = points_from_depth(
        library(), depth, labels, golden["K"].astype(np.float32), objects, depth.size
    )
    assert status == 0
    np.testing.assert_array_equal(got.points[np.argsort(owner, kind="stable")], golden["points"])
    assert got.z_min == golden["z_min"][0]


def test_points_report_what_only_the_device_sees() -> None:
    cuda, rng = library(), np.random.default_rng(0)
    depth = rng.uniform(600, 700, (20, 30)).astype(np.float32)
    labels = rng.integers(-1, 2, (20, 30)).astype(np.int32)
    whole, owner, _, _ = points_from_depth(cuda, depth, labels, K, 2, 600)
    part, part_owner, _, status = points_from_depth(cuda, depth, labels, K, 2, 100)
    assert status == POINTS_EXCEEDED
    np.testing.assert_array_equal(part.points, whole.points[:100])
    np.testing.assert_array_equal(part.counts, np.bincount(owner[:100]))
    np.testing.assert_array_equal(part_owner, owner[:100])
    wrong, _, _, status = points_from_depth(cuda, depth, np.where(labels == 1, 2, labels), K, 2, 600)
    assert status == LABEL_OUT_OF_RANGE
    assert wrong.counts[1] == 0 and wrong.counts[0] == whole.counts[0]


@settings(max_examples=5 if SANITIZED else 30, deadline=None)
@given(frames(), SEED)
def test_adjacency(frame: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    _, labels, objects = frame
    cuda = library()
    cuda.seed(seed)
    adjacent, status = np.full((objects, objects), 7, np.uint8), np.zeros(1, np.int32)
    cuda.adjacency(labels, *labels.shape, objects, adjacent, status)
    np.testing.assert_array_equal(adjacent, reference.adjacency(labels, objects))
    assert status[0] == 0
    cuda.adjacency(np.where(labels == 0, objects, labels), *labels.shape, objects, adjacent, status)
    assert status[0] == (LABEL_OUT_OF_RANGE if (labels == 0).any() else 0)
