"""What the view draws: lengths, thresholds, colours, where it looks from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zerograsp_edge.runtime.live import LiveResult
from zerograsp_edge.runtime.overlay import draw_masks
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.segmentation import Segmentation, SupportPlane
from zerograsp_edge.runtime.view.charts import Times
from zerograsp_edge.runtime.view.drawing import chosen_grasps, cloud, grasp_lines, surface, upward, viewpoint


def test_cloud_is_the_depth_image_in_metres(live_result: LiveResult) -> None:
    frame = live_result.frame
    points, colours = cloud(frame)
    assert points.shape == colours.shape == (int(((frame.depth > 0) & (frame.depth < 3000)).sum()), 3)
    pixels = points @ frame.intrinsics.T
    columns, rows = np.rint(pixels[:, :2] / pixels[:, 2:]).astype(int).T
    np.testing.assert_allclose(points[:, 2] * 1000, frame.depth[rows, columns], rtol=1e-5)
    np.testing.assert_array_equal(colours, frame.rgb[rows, columns])
    assert frame.mask is not None
    fewer, _ = cloud(frame, without={1})
    assert len(points) - len(fewer) == int(((frame.mask == 1) & (frame.depth > 0)).sum()) > 0


def test_surface_is_in_metres_and_brighter_towards_the_light(live_result: LiveResult) -> None:
    assert live_result.result is not None
    item = live_result.result.objects[0]
    points, colours = surface(item)
    np.testing.assert_allclose(points * 1000, item.points, rtol=1e-5)
    upper, lower = item.normals[:, 1] < -0.8, item.normals[:, 1] > 0.8
    assert colours[upper].mean() > 1.5 * colours[lower].mean()


@pytest.mark.parametrize(
    ("min_score", "per_object", "count"), [(0.0, 20, 6), (0.5, 20, 4), (0.0, 1, 2), (0.95, 3, 0), (0.0, 0, 0)]
)
def test_thresholds(live_result: LiveResult, min_score: float, per_object: int, count: int) -> None:
    assert live_result.result is not None
    grasps = chosen_grasps(live_result.result, min_score, per_object)
    assert len(grasps) == count
    assert (grasps.score >= min_score).all()


def test_grippers_reach_around_the_grasp_point(live_result: LiveResult) -> None:
    assert live_result.result is not None
    grasps = chosen_grasps(live_result.result, 0.5, 1)
    lines, colours = grasp_lines(grasps)
    assert lines.shape == colours.shape == (4 * len(grasps), 2, 3)
    for grasp, gripper in zip(grasps.translation, np.split(lines, len(grasps)), strict=True):
        tips = gripper[0, 0], gripper[2, 1]
        np.testing.assert_allclose(np.mean(tips, axis=0), grasp + np.array([0, 0, 0.02]), atol=1e-6)
        assert np.linalg.norm(np.subtract(*tips)) == pytest.approx(0.07)
        assert gripper[..., 2].min() == pytest.approx(grasp[2] - 0.06), "the handle points to the camera"
    assert colours[0, 0, 1] > 2 * colours[0, 0, 0], "a score of 0.9 is green"


def test_viewpoint_sees_every_object(live_result: LiveResult) -> None:
    assert live_result.result is not None
    there = viewpoint(live_result.result)
    assert there is not None
    forward = there.look_at - there.position
    distance = float(np.linalg.norm(forward))
    assert 0.1 < distance < 0.5
    for item in live_result.result.objects:
        towards = item.points / 1000 - there.position
        cosine = towards @ forward / np.linalg.norm(towards, axis=1) / distance
        assert np.degrees(np.arccos(cosine)).max() < 35
    assert viewpoint(Result(())) is None


def test_up_is_away_from_the_support(live_result: LiveResult) -> None:
    assert live_result.result is not None
    np.testing.assert_array_equal(upward(live_result.result), (0, -1, 0))
    normal = np.array([0, -0.6, -0.8])
    segmentation = Segmentation(np.zeros((2, 2), np.int32), (SupportPlane(normal, 500.0, 900.0, True),))
    np.testing.assert_array_equal(upward(replace(live_result.result, segmentation=segmentation)), normal)


def test_masks_tint_objects_and_nothing_else(live_result: LiveResult) -> None:
    import cv2

    frame = live_result.frame
    assert frame.mask is not None
    picture = draw_masks(frame)
    inside = frame.mask > 0
    near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5))) > 0
    np.testing.assert_array_equal(picture[~near], frame.rgb[~near])
    assert (picture[inside] != frame.rgb[inside]).any(axis=1).mean() > 0.95


def test_times(live_result: LiveResult, empty_result: LiveResult) -> None:
    times = Times(length=3)
    for step in range(5):
        times.add(replace(live_result, exposed=10 + step, delivered=10.034 + step))
    seconds, latency, perception, segmentation = times.columns()
    np.testing.assert_allclose(seconds, [2, 3, 4])
    np.testing.assert_allclose(latency, 34, atol=1e-6)
    np.testing.assert_allclose(perception, 30, atol=1e-6)
    np.testing.assert_array_equal(segmentation, 8)
    assert times.rate() == pytest.approx(1)
    times.add(empty_result)
    assert np.isnan(times.columns()[3][-1])
