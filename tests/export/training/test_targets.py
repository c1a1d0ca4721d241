"""Targets against the exact geometry that they were made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zerograsp_edge.export.network import NetworkConfig, prepare_frame
from zerograsp_edge.export.network.posterior import target_signal
from zerograsp_edge.export.network.preprocess import FrameInputs, denormalise_points
from zerograsp_edge.export.training.dataset import prepare_view, unchanged
from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.export.training.targets import (
    TargetError,
    frame_targets,
    object_target,
    surface_in_camera,
    target_octree,
)
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

EDGE = NetworkConfig.edge()
VOXEL = EDGE.cube_size / (1 << EDGE.max_lod)


@pytest.fixture(scope="module")
def frame(sample: SceneSample) -> FrameInputs:
    view = sample.views[0]
    return prepare_frame(EDGE, view.rgb, view.depth, view.mask, view.intrinsics)


def test_centre_minus_normal_times_distance_is_on_the_surface(
    sample: SceneSample, frame: FrameInputs
) -> None:
    view = sample.views[0]
    truth = SimulatedCamera(sample.seed, len(sample.objects), 128, 96).scene
    for target, i in zip(frame_targets(EDGE, frame, sample, view), frame.object_ids, strict=True):
        centres = denormalise_points(EDGE, target.centres, frame.z_min).numpy()
        on_surface = centres - target.normals.numpy() * target.signal[:, :1].numpy()
        world = on_surface @ view.camera_pose[:3, :3].T + view.camera_pose[:3, 3]
        gap = np.abs(truth[i - 1].distance(world))
        # The tangent plane leaves a curved or edged surface within a voxel's half diagonal.
        assert np.median(gap) < 0.02
        assert np.quantile(gap, 0.95) < 0.3
        assert float(target.signal[:, 0].abs().max()) <= VOXEL * 3**0.5 / 2 + 1e-3


def test_every_visible_point_has_its_voxel_nearby(sample: SceneSample, frame: FrameInputs) -> None:
    targets = frame_targets(EDGE, frame, sample, sample.views[0])
    for target, points in zip(targets, frame.points, strict=True):
        nearest = torch.cdist(points, target.centres).min(dim=1).values * EDGE.cube_size / 2
        assert nearest.max() < 1.5 * VOXEL


def test_the_sample_nearest_to_the_voxels_centre_is_taken() -> None:
    rng = np.random.default_rng(0)
    config = NetworkConfig.tiny()
    points = rng.uniform((-60, -60, 400), (60, 60, 520), (4000, 3)).astype(np.float32)
    normals = rng.standard_normal((4000, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    grasps = rng.random((4000, 10)).astype(np.float32)
    target = object_target(config, 160.0, points, normals, grasps)

    voxel = config.cube_size / (1 << config.max_lod)
    origin = np.array([-config.cube_size / 2, -config.cube_size / 2, 160.0])
    best: dict[tuple[int, ...], tuple[float, int]] = {}
    for row, point in enumerate(points.astype(np.float64)):
        node = np.floor((point - origin) / voxel)
        distance = float(np.linalg.norm((node + 0.5) * voxel + origin - point))
        key = tuple(int(i) for i in node)
        best[key] = min(best.get(key, (np.inf, -1)), (distance, row))
    centres = denormalise_points(config, target.centres, 160.0).numpy()
    found = {tuple(int(i) for i in n): r for r, n in enumerate(np.floor((centres - origin) / voxel))}
    assert set(found) == set(best)
    for key, (_, row) in best.items():
        chosen = target.signal[found[key]].numpy()
        np.testing.assert_array_equal(chosen[1:], grasps[row])
        expected = (centres[found[key]] - points[row]) @ normals[row]
        np.testing.assert_allclose(chosen[0], expected, atol=1e-3)


def test_the_octree_holds_each_voxel_once_and_unaveraged(sample: SceneSample, frame: FrameInputs) -> None:
    targets = frame_targets(EDGE, frame, sample, sample.views[0])
    octree = target_octree(EDGE, targets)
    assert int(octree.nnum_nempty[EDGE.max_lod]) == sum(len(t.centres) for t in targets)
    assert int(octree.nnum[EDGE.max_lod]) == sum(t.nodes for t in targets)
    wanted = torch.cat([torch.cat((t.normals, t.signal), dim=1) for t in targets])
    got = target_signal(octree)
    for column in (3, 4, 13):
        torch.testing.assert_close(got[:, column].sort().values, wanted[:, column].sort().values)
    torch.testing.assert_close(got.sum(dim=0), wanted.sum(dim=0), rtol=1e-4, atol=1e-2)


def test_surface_outside_the_cube_is_cut_off_like_the_input() -> None:
    points = np.array([[0, 0, 200], [316, 0, 200], [317.5, 0, 200], [0, 0, 100], [0, 0, 900]], np.float32)
    normals = np.tile(np.float32([0, 0, -1]), (5, 1))
    target = object_target(EDGE, 160.0, points, normals, np.zeros((5, 10), np.float32))
    assert len(target.centres) == 2
    assert (
        len(object_target(EDGE, 160.0, points[2:], normals[2:], np.zeros((3, 10), np.float32)).centres) == 0
    )


def test_a_mask_value_without_object_is_refused(sample: SceneSample, frame: FrameInputs) -> None:
    incomplete = replace(sample, objects=sample.objects[1:])
    with pytest.raises(TargetError, match=r"mask has the values \[1\], the scene has the objects \[2, 3\]"):
        frame_targets(EDGE, frame, incomplete, sample.views[0])


def test_an_object_whose_surface_lies_outside_the_cube_leaves_the_view(sample: SceneSample) -> None:
    moved = sample.objects[1].pose.copy()
    moved[:3, 3] += 5000
    scene = replace(
        sample, objects=(sample.objects[0], replace(sample.objects[1], pose=moved), sample.objects[2])
    )
    view = prepare_view(EDGE, scene, scene.views[0], unchanged(scene.views[0]))
    assert view.frame.object_ids == (1, 3)
    assert len(view.targets) == 2


def test_a_mask_without_background_is_refused(sample: SceneSample) -> None:
    full = replace(sample.views[0], mask=np.full_like(sample.views[0].mask, 1))
    with pytest.raises(TargetError, match="no background"):
        prepare_view(EDGE, sample, full, unchanged(full))


def test_widths_scale_with_the_world_and_end_with_the_gripper(sample: SceneSample) -> None:
    surface = sample.objects[0]
    grasps = surface.grasps.copy()
    grasps[0] = (1, 1, 0, 0, 1, 0, 1, 0, 0.5, 0.99)
    grasps[1] = (1, 1, 0, 0, 1, 0, 1, 0, 0.5, 0.5)
    points, _, scaled = surface_in_camera(replace(surface, grasps=grasps), np.eye(4), np.eye(3) * 1.1)
    unscaled, _, _ = surface_in_camera(surface, np.eye(4))
    np.testing.assert_allclose(points, 1.1 * unscaled, rtol=1e-5, atol=1e-4)
    assert not scaled[0].any()
    assert scaled[1, 9] == pytest.approx(0.55) and scaled[1, 8] == pytest.approx(0.5)
