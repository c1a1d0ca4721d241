"""Augmented views are views of the augmented world, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.spatial import cKDTree

from zerograsp_edge.export.network import NetworkConfig
from zerograsp_edge.export.network.preprocess import back_project, denormalise_points
from zerograsp_edge.export.training.augment import (
    Augmentation,
    Augmented,
    augment,
    dihedral,
    disturb_depth,
    drop_objects,
    jitter_colour,
)
from zerograsp_edge.export.training.dataset import prepare_view, unchanged
from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.export.training.targets import surface_in_camera

# Voxels of 2.5 mm: finer than the edge model's, so that bounds can be tight.
FINE = replace(NetworkConfig.edge(), max_lod=8, channels=(128, 96, 64, 48, 32, 24))
SYMMETRIES = list(product((False, True), repeat=3))


def gap_to_surface(sample: SceneSample, changed: Augmented) -> np.ndarray:
    """(masked pixels,) distance of the back-projected pixels of a view from its transformed surfaces, mm."""
    gaps = []
    for surface in sample.objects:
        points, normals, _ = surface_in_camera(surface, sample.views[0].camera_pose, changed.warp)
        v, u = np.nonzero((changed.mask == surface.object_id) & (changed.depth > 0))
        seen = back_project(u, v, changed.depth[v, u], changed.intrinsics)
        row = cKDTree(points).query(seen)[1]
        gaps.append(np.abs(np.einsum("ni,ni->n", seen - points[row], normals[row])))
    return np.concatenate(gaps)


@pytest.mark.parametrize("flips", SYMMETRIES)
def test_targets_reproject_onto_the_augmented_depth_image(
    sample: SceneSample, flips: tuple[bool, bool, bool]
) -> None:
    changed = dihedral(sample.views[0], *flips)
    assert np.quantile(gap_to_surface(sample, changed), 0.99) < 0.4
    view = prepare_view(FINE, sample, sample.views[0], changed)
    k = changed.intrinsics.astype(np.float64)
    for i, target in zip(view.frame.object_ids, view.targets, strict=True):
        centres = denormalise_points(FINE, target.centres, view.frame.z_min).numpy().astype(np.float64)
        normals = target.normals.numpy()
        points = centres - normals * target.signal[:, :1].numpy()
        pixels = points @ k.T
        u, v = np.rint(pixels[:, :2] / pixels[:, 2:]).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < changed.mask.shape[1]) & (v < changed.mask.shape[0])
        # Facing the camera and seen as this object: the depth image must have the point.
        facing = np.einsum("ni,ni->n", normals, points) / np.linalg.norm(points, axis=1) < -0.5
        rows = np.flatnonzero(inside & facing)
        rows = rows[changed.mask[v[rows], u[rows]] == i]
        assert len(rows) > 100
        behind = points[rows, 2] - changed.depth[v[rows], u[rows]]
        assert np.median(np.abs(behind)) < 2.0  # half a pixel is 3 mm here
        assert (behind > -9).mean() > 0.99


@pytest.mark.parametrize("flips", SYMMETRIES)
def test_the_network_sees_the_mirrored_points(sample: SceneSample, flips: tuple[bool, bool, bool]) -> None:
    view = sample.views[0]
    changed = dihedral(view, *flips)
    original = prepare_view(FINE, sample, view, unchanged(view)).frame
    mirrored = prepare_view(FINE, sample, view, changed).frame
    assert original.z_min == mirrored.z_min
    warp = changed.warp.astype(np.float32)
    for a, b in zip(original.points, mirrored.points, strict=True):
        expected = a.numpy() @ warp.T
        assert len(expected) == len(b)
        assert cKDTree(b.numpy()).query(expected)[0].max() < 1e-5


def test_the_eight_symmetries_differ_and_keep_depth(sample: SceneSample) -> None:
    warps = [dihedral(sample.views[0], *flips).warp for flips in SYMMETRIES]
    assert len({w.tobytes() for w in warps}) == 8
    for warp in warps:
        np.testing.assert_array_equal(warp @ warp.T, np.eye(3))
        np.testing.assert_array_equal(warp[2], (0, 0, 1))


def test_a_scaled_view_is_the_view_of_the_scaled_world(sample: SceneSample) -> None:
    settings = Augmentation(flip_x=1, scale=0.2, colour=0, depth_noise=0, drop_object=0)
    scales = []
    for seed in range(4):
        changed = augment(sample.views[0], settings, np.random.default_rng(seed))
        scales.append(np.cbrt(abs(np.linalg.det(changed.warp))))
        assert np.quantile(gap_to_surface(sample, changed), 0.99) < 0.5
    assert max(scales) - min(scales) > 0.05


def test_labels_turn_with_the_surface(sample: SceneSample) -> None:
    """In the made-up labels the closing direction is the normal and the approach at right angles to it."""
    for flips in SYMMETRIES:
        warp = dihedral(sample.views[0], *flips).warp * 0.9
        _, normals, grasps = surface_in_camera(sample.objects[0], sample.views[0].camera_pose, warp)
        valid = grasps[:, 1] > 0
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(grasps[valid, 2:5], normals[valid], atol=1e-4)
        assert np.abs(np.einsum("ni,ni->n", grasps[valid, 5:8], normals[valid])).max() < 1e-4


def test_no_augmentation_changes_nothing(sample: SceneSample) -> None:
    view = sample.views[0]
    same = augment(view, Augmentation.none(), np.random.default_rng(0))
    for name in ("rgb", "depth", "mask", "intrinsics"):
        np.testing.assert_array_equal(getattr(same, name), getattr(view, name))
    np.testing.assert_array_equal(same.warp, np.eye(3))


def test_the_generator_decides(sample: SceneSample) -> None:
    a, b, c = (augment(sample.views[0], Augmentation(), np.random.default_rng(s)) for s in (5, 5, 6))
    for name in ("rgb", "depth", "mask", "warp"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.rgb.shape != c.rgb.shape or not np.array_equal(a.rgb, c.rgb)


def test_depth_noise_is_small_and_fills_no_holes(sample: SceneSample) -> None:
    depth = sample.views[0].depth.copy()
    depth[:20] = 0
    for seed in range(5):
        noisy = disturb_depth(depth, 615.0, np.random.default_rng(seed))
        assert noisy.dtype == np.float32 and not noisy[:20].any()
        both = (noisy > 0) & (depth > 0)
        assert both.sum() > 0.9 * (depth > 0).sum()
        assert np.abs(noisy - depth)[both].max() < 12
    assert not np.array_equal(noisy, depth)


def test_colours_change_and_stay_colours(sample: SceneSample) -> None:
    rgb = sample.views[0].rgb
    changed = [jitter_colour(rgb, np.random.default_rng(seed)) for seed in range(40)]
    assert all(c.dtype == np.uint8 and c.shape == rgb.shape for c in changed)
    assert all(not np.array_equal(c, rgb) for c in changed)
    grey = [c for c in changed if np.ptp(c.astype(int), axis=2).max() <= 1]
    assert 1 <= len(grey) <= 12


def test_dropping_objects_leaves_one() -> None:
    mask = np.repeat(np.arange(5, dtype=np.uint8), 4).reshape(4, 5)
    kept = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        dropped = drop_objects(mask, 0.9, rng)
        kept.append(len(np.unique(dropped[dropped > 0])))
        assert ((dropped == mask) | (dropped == 0)).all()
    assert min(kept) == 1 and max(kept) > 1
    np.testing.assert_array_equal(drop_objects(mask, 0.0, np.random.default_rng(0)), mask)
    empty = np.zeros((3, 3), np.uint8)
    np.testing.assert_array_equal(drop_objects(empty, 1.0, np.random.default_rng(0)), empty)
