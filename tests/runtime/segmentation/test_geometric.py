"""The geometric segmenter on pictures whose objects are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.camera.files import read_frame
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.errors import FrameError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.segmentation import Segmentation
from zerograsp_edge.runtime.segmentation.geometric import (
    NOTHING,
    GeometricSegmenter,
    SegmentationConfig,
    depth_noise,
    self_check,
)
from zerograsp_edge.runtime.segmentation.planes import find_planes
from zerograsp_edge.runtime.simulation.sensor import stereo_noise

WIDTH, HEIGHT = 320, 240
K = np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]], np.float32)


def rays(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    return np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], axis=2)


def tilted(rng: np.random.Generator, steepest: float = 40.0) -> tuple[np.ndarray, float]:
    """Unit normal towards the camera and distance of a plane some 700 mm away."""
    angle, azimuth = np.radians(rng.uniform(0, steepest)), rng.uniform(0, 2 * np.pi)
    normal = np.array([np.sin(angle) * np.cos(azimuth), np.sin(angle) * np.sin(azimuth), -np.cos(angle)])
    return normal, -float(normal @ [0, 0, rng.uniform(600, 800)])


def scene(
    rng: np.random.Generator, boxes: list[tuple[slice, slice]], height: float, noise: float = 0.03
) -> tuple[Frame, np.ndarray, tuple[np.ndarray, float]]:
    """Parts of a tilted table raised by `height` mm, as a stereo camera measures them; the frame, the truth,
    the table."""
    normal, distance = tilted(rng)
    along = rays() @ normal
    depth = -distance / along
    truth = np.zeros(depth.shape, int)
    for i, box in enumerate(boxes):
        depth[box] = (height - distance) / along[box]
        truth[box] = i + 1
    measured = stereo_noise(depth.astype(np.float32), 300.0, rng, disparity_error=noise, shadows=False)
    rgb = np.full((*depth.shape, 3), 120, np.uint8)
    rgb[truth > 0] = (150, 90, 60)
    return Frame(rgb, measured, K), truth, (normal, distance)


def iou(mask: np.ndarray, truth: np.ndarray, index: int) -> float:
    """Of a true object with the segment that overlaps it best."""
    own = truth == index
    ids = np.unique(mask[own])
    return max((np.sum(own & (mask == i)) / np.sum(own | (mask == i)) for i in ids if i), default=0.0)


BOXES = [
    (slice(40, 76), slice(50, 92)),
    (slice(70, 120), slice(190, 236)),
    (slice(160, 200), slice(110, 160)),
]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([25.0, 60.0]))
def test_objects_on_a_table_of_any_tilt_are_found(seed: int, height: float) -> None:
    frame, truth, (normal, distance) = scene(np.random.default_rng(seed), BOXES, height)
    found = GeometricSegmenter(threads=1)(frame)
    assert len(found.object_ids) == len(BOXES)
    assert min(iou(found.mask, truth, i + 1) for i in range(len(BOXES))) > 0.85
    table = found.planes[0]
    assert table.carries
    assert np.degrees(np.arccos(np.clip(table.normal @ normal, -1, 1))) < 1.5
    assert abs(table.distance - distance) < 5
    points = frame.point_image()[(truth == 0) & (frame.depth > 0)]
    assert abs(np.median(table.height(points))) < 1.5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_empty_table_has_no_object_and_says_so(seed: int) -> None:
    frame, _, _ = scene(np.random.default_rng(seed), [], 0.0)
    found = GeometricSegmenter(threads=1)(frame)
    assert found.object_ids == ()
    assert found.reason.startswith(NOTHING)
    with pytest.raises(FrameError, match="no object found in frame 'frame': nothing stands on the supports"):
        found.apply(frame)


def test_ids_stay_while_the_camera_moves() -> None:
    """A quarter of a minute's orbit at three frames a second: what is the same object keeps its id."""
    camera = SimulatedCamera(5, 5, WIDTH, HEIGHT, moving=True, rate=6.0)
    segmenter = GeometricSegmenter(threads=1)
    names: dict[int, set[int]] = {}
    frames = 30
    for _ in range(frames):
        frame = camera.read()
        assert frame.mask is not None
        found = segmenter(frame)
        for object_id in frame.object_ids():
            own = frame.mask == object_id
            ids, counts = np.unique(found.mask[own], return_counts=True)
            best = int(ids[counts.argmax()])
            if best and counts.max() > 0.7 * own.sum():
                names.setdefault(object_id, set()).add(best)
    assert len(names) >= 4
    assert sum(len(ids) == 1 for ids in names.values()) >= len(names) - 1, names


def test_a_hidden_object_comes_back_under_its_id_and_reset_starts_again() -> None:
    rng = np.random.default_rng(3)
    state = rng.bit_generator.state

    def frame(boxes: list[tuple[slice, slice]]) -> Frame:
        rng.bit_generator.state = state  # the same table each time
        return scene(rng, boxes, 40.0)[0]

    segmenter = GeometricSegmenter(threads=1)

    def id_at(found: Segmentation, box: tuple[slice, slice]) -> int:
        return int(np.bincount(found.mask[box].ravel()).argmax())

    first = segmenter(frame(BOXES))
    before = [id_at(first, box) for box in BOXES]
    assert sorted(before) == [1, 2, 3]
    without = segmenter(frame(BOXES[1:]))
    assert [id_at(without, box) for box in BOXES[1:]] == before[1:]
    again = segmenter(frame(BOXES))
    assert [id_at(again, box) for box in BOXES] == before
    segmenter.reset()
    assert segmenter(frame(BOXES[:1])).object_ids == (1,)


def test_the_result_does_not_depend_on_threads_or_on_earlier_frames() -> None:
    frame, _, _ = scene(np.random.default_rng(1), BOXES, 40.0)
    other, _, _ = scene(np.random.default_rng(2), BOXES[:1], 80.0)
    expected = GeometricSegmenter(threads=1)(frame)
    segmenter = GeometricSegmenter(threads=3)
    segmenter(other)
    segmenter.reset()
    np.testing.assert_array_equal(segmenter(frame).mask, expected.mask)


def test_broken_depth_harms_only_itself() -> None:
    frame, truth, _ = scene(np.random.default_rng(4), BOXES, 40.0)
    depth = frame.depth.copy()
    rng = np.random.default_rng(0)
    bad = rng.random(depth.shape)
    depth[bad < 0.10] = np.nan
    depth[bad < 0.07] = np.inf
    depth[bad < 0.05] = -3
    depth[bad < 0.03] = 0
    depth[:, 300:] = 0
    found = GeometricSegmenter(threads=1)(Frame(frame.rgb, depth, K))
    assert len(found.object_ids) == 3
    assert min(iou(found.mask, truth, i + 1) for i in range(3)) > 0.75


@pytest.mark.parametrize("far", [5000.0, 60000.0])
def test_nothing_near_is_a_reason(far: float) -> None:
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH), far, np.float32), K)
    found = GeometricSegmenter(threads=1)(frame)
    assert found.object_ids == () and "no depth within 10 to 3200 mm" in found.reason


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 5), (40, 30), (1300, 1700)])
def test_any_size_runs(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(400, 900, size).astype(np.float32)
    depth[::3] = 0
    if depth.max() == 0:
        depth[0, 0] = 500
    frame = Frame(
        rng.integers(0, 256, (*size, 3)).astype(np.uint8),
        depth,
        np.array([[max(size), 0, size[1] / 2], [0, max(size), size[0] / 2], [0, 0, 1]], np.float32),
    )
    found = GeometricSegmenter(threads=1)(frame)
    assert found.mask.shape == size and found.mask.dtype == np.int32 and found.mask.min() >= 0
    assert bool(found.object_ids) == (found.reason == "")


@pytest.mark.parametrize("principal", [(-300.0, 119.5), (159.5, 470.0), (600.0, -230.0)])
def test_intrinsics_of_a_crop_far_from_the_axis(principal: tuple[float, float]) -> None:
    """Wrong or extreme intrinsics distort lengths; they must neither raise nor make the mask meaningless."""
    frame, _, _ = scene(np.random.default_rng(6), BOXES, 40.0)
    intrinsics = K.copy()
    intrinsics[:2, 2] = principal
    found = GeometricSegmenter(threads=1)(Frame(frame.rgb, frame.depth, intrinsics))
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert all(np.isfinite(p.normal).all() and np.isfinite(p.distance) for p in found.planes)


def test_most_objects_are_kept_by_size_and_the_rest_reported() -> None:
    frame, truth, _ = scene(np.random.default_rng(7), BOXES, 40.0)
    found = GeometricSegmenter(SegmentationConfig(max_objects=2), threads=1)(frame)
    assert len(found.object_ids) == 2
    assert found.left_out["more objects than asked for"] == 1
    assert iou(found.mask, truth, 1) == 0  # the smallest


def test_noise_of_the_depth_is_measured() -> None:
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:240, :320]
    exact = 1.2 + 1e-3 * u + 5e-4 * v
    for sigma in (2e-3, 1e-2):
        measured = (exact + sigma * rng.standard_normal(exact.shape)).astype(np.float32)
        assert abs(depth_noise(measured) / sigma - 1) < 0.05


def test_no_planes_among_nothing() -> None:
    from zerograsp_edge.runtime.segmentation.boundary import Pieces

    nothing = Pieces(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    assert find_planes(np.zeros((0, 10)), nothing, 1e-3, min_area=1.0, min_length=1.0, max_depth=1e4) == []


def test_self_check_finds_both_boxes() -> None:
    assert self_check() == 2


def test_real_frame_000(frames_dir: Path) -> None:
    """The seven objects on the table of a real frame, against the masks that came with it."""
    parts = [frames_dir / f"000.{part}" for part in ("rgb.png", "depth.png", "meta.yml", "mask.png")]
    frame = read_frame(*parts)
    found = GeometricSegmenter(threads=1)(frame)
    truth = frame.label_image() + 1
    scores = [iou(found.mask, truth, i + 1) for i in range(len(frame.object_ids()))]
    assert len(scores) == 7
    assert sum(s > 0.75 for s in scores) >= 6, scores
