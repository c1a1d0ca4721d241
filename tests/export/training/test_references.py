"""References on rendered solids: what they recover, what they leave alone, what noise does to them."""

from __future__ import annotations

import numpy as np
import pytest
from trimesh.sample import sample_surface

pytest.importorskip("scipy", reason="needs the extra `sim`")

from zerograsp_edge.export.training.metrics import Surface, compare
from zerograsp_edge.export.training.references import (
    FREE_SPACE_MARGIN_MM,
    Observation,
    convex_hull,
    mirror_completion,
    visible_points,
)
from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder, Shape, Sphere

INTRINSICS = np.array([[460.0, 0, 119.5], [0, 460.0, 89.5], [0, 0, 1]])
HEIGHT, WIDTH = 180, 240


def camera(tilt_degrees: float, distance: float = 500.0) -> np.ndarray:
    """(4, 4) world <- camera that looks at the origin from -y, so many degrees above the horizon."""
    tilt = np.radians(tilt_degrees)
    forward = np.array([0, np.cos(tilt), -np.sin(tilt)])
    right = np.array([1.0, 0, 0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = -distance * forward
    return pose


def render(shape: Shape, pose: np.ndarray, background: float = 900.0) -> Observation:
    """The solid at the world's origin, before a plane at constant depth."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(u - 119.5) / 460, (v - 89.5) / 460, np.ones_like(u, float)], axis=-1).reshape(-1, 3)
    depth = shape.intersect(pose[:3, 3], rays @ pose[:3, :3].T).reshape(HEIGHT, WIDTH)
    mask = np.isfinite(depth).astype(np.uint8)
    return Observation(np.where(mask, depth, background).astype(np.float32), mask, INTRINSICS, pose)


def truth(shape: Shape, pose: np.ndarray) -> Surface:
    mesh = shape.mesh()
    points, faces = sample_surface(mesh, int(mesh.area), seed=0)
    return Surface(points, mesh.face_normals[faces]).moved(np.linalg.inv(pose))


BOX = Box((30, 30, 30))


@pytest.fixture(scope="module")
def pose() -> np.ndarray:
    return camera(35)


@pytest.fixture(scope="module")
def seen_box(pose: np.ndarray) -> Observation:
    return render(BOX, pose)


def test_visible_points_lie_on_the_surface_and_face_the_camera(
    seen_box: Observation, pose: np.ndarray
) -> None:
    visible = visible_points(seen_box, 1)
    assert len(visible) > 0.9 * seen_box.mask.sum()
    world = visible.moved(pose)
    assert np.abs(BOX.distance(world.points)).max() < 0.1
    assert visible.normals is not None
    assert (np.einsum("ni,ni->n", visible.normals, visible.points) <= 0).all()
    result = compare(visible, truth(BOX, pose))
    assert result.accuracy < 1
    assert result.completeness > 5


def test_normals_of_a_noisy_sphere(pose: np.ndarray) -> None:
    sphere = Sphere(40)
    exact = render(sphere, pose)
    noise = np.random.default_rng(0).normal(0, 0.5, exact.depth.shape)
    noisy = Observation((exact.depth + noise).astype(np.float32), exact.mask, INTRINSICS, pose)
    world = visible_points(noisy, 1).moved(pose)
    assert world.normals is not None
    radial = world.points / np.linalg.norm(world.points, axis=1, keepdims=True)
    assert np.median(np.einsum("ni,ni->n", world.normals, radial)) > 0.97


def test_outliers_of_a_leaking_mask_and_flying_pixels_go(seen_box: Observation, pose: np.ndarray) -> None:
    depth, mask = seen_box.depth.copy(), seen_box.mask.copy()
    mask[10:20, 10:20] = 1  # a patch of the background
    rows, columns = np.nonzero(seen_box.mask)
    flying = np.random.default_rng(0).choice(len(rows), 60, replace=False)
    depth[rows[flying], columns[flying]] += 60
    visible = visible_points(Observation(depth, mask, INTRINSICS, pose), 1)
    assert np.abs(BOX.distance(visible.moved(pose).points)).max() < 15
    assert len(visible) > 0.85 * seen_box.mask.sum()


def test_an_object_in_two_pieces_keeps_both(seen_box: Observation, pose: np.ndarray) -> None:
    mask = seen_box.mask.copy()
    mask[:, 112:128] = 0  # something narrow stands before it
    visible = visible_points(Observation(seen_box.depth, mask, INTRINSICS, pose), 1)
    assert len(visible) > 0.9 * mask.sum()
    assert np.ptp(visible.points[:, 0]) > 50


@pytest.mark.parametrize("tilt", [20, 35, 55])
@pytest.mark.parametrize("shape", [BOX, Cylinder(30, 40), Sphere(35)])
def test_mirroring_beats_the_visible_points(shape: Shape, tilt: float) -> None:
    pose = camera(tilt)
    seen, true = render(shape, pose), truth(shape, pose)
    visible = visible_points(seen, 1)
    before, after = compare(visible, true), compare(mirror_completion(visible, seen), true)
    assert after.chamfer < 0.8 * before.chamfer
    assert after.f1_10 > before.f1_10
    assert after.accuracy < 4


def test_the_mirrored_back_of_a_box_is_where_the_box_ends(seen_box: Observation, pose: np.ndarray) -> None:
    mirrored = mirror_completion(visible_points(seen_box, 1), seen_box).moved(pose)
    # Seen from -y; the back stands at y = 30.
    assert mirrored.points[:, 1].max() == pytest.approx(30, abs=2)
    back = mirrored.points[:, 1] > 26
    assert mirrored.normals is not None
    assert (mirrored.normals[back & (mirrored.points[:, 2] < 20), 1] > 0.9).mean() > 0.9
    # Height is kept.
    assert np.abs(mirrored.points[:, 2]).max() < 31


def test_no_mirrored_point_stands_where_the_camera_saw_through(
    seen_box: Observation, pose: np.ndarray
) -> None:
    # A plate that is deep along the view and cut short in the mask: its mirror would stick out.
    plate = Box((15, 60, 5))
    seen = render(plate, pose)
    mirrored = mirror_completion(visible_points(seen, 1), seen)
    pixels = np.rint(mirrored.points[:, :2] / mirrored.points[:, 2:] * 460 + (119.5, 89.5)).astype(int)
    inside = ((pixels >= 0) & (pixels < (WIDTH, HEIGHT))).all(axis=1)
    behind = seen.depth[pixels[inside, 1], pixels[inside, 0]] - mirrored.points[inside, 2]
    assert behind.max() <= FREE_SPACE_MARGIN_MM + 2


def test_from_straight_above_mirroring_is_defined() -> None:
    pose = camera(90)
    seen = render(BOX, pose)
    visible = visible_points(seen, 1)
    result = mirror_completion(visible, seen)
    assert len(result) >= len(visible)
    assert np.isfinite(result.points).all()


def test_hull_of_a_sphere(pose: np.ndarray) -> None:
    sphere = Sphere(40)
    hull = convex_hull(visible_points(render(sphere, pose), 1)).moved(pose)
    assert hull.normals is not None
    distance = sphere.distance(hull.points)
    assert distance.max() < 0.5
    radial = hull.points / np.linalg.norm(hull.points, axis=1, keepdims=True)
    forward = pose[:3, 2]
    cap = (distance > -1) & (radial @ forward < -0.3)
    assert np.einsum("ni,ni->n", hull.normals, radial)[cap].mean() > 0.98
    # The flat side looks away from the camera.
    flat = distance < -8
    assert flat.sum() > 100
    assert (hull.normals[flat] @ forward).mean() > 0.9


def test_hull_samples_are_even() -> None:
    corners = np.array([[x, y, z] for x in (0, 60) for y in (0, 60) for z in (0, 60)], float)
    hull = convex_hull(Surface(corners, None))
    counts = np.histogram2d(*hull.points[hull.points[:, 2] > 59.9][:, :2].T, bins=6)[0]
    assert counts.sum() == pytest.approx(len(hull) / 6, rel=0.02)
    assert counts.min() > 0.6 * counts.mean()


def test_a_flat_set_of_points_has_a_hull() -> None:
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    hull = convex_hull(Surface(np.column_stack([grid, np.full(400, 500.0)])))
    assert len(hull) > 100
    assert np.abs(hull.points[:, 2] - 500).max() < 0.1


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_too_few_points_give_empty_surfaces(seen_box: Observation, pose: np.ndarray, pixels: int) -> None:
    mask = np.zeros_like(seen_box.mask)
    mask[90, 120 : 120 + pixels] = 1
    seen = Observation(seen_box.depth, mask, INTRINSICS, pose)
    visible = visible_points(seen, 1)
    assert len(visible) == len(convex_hull(visible)) == len(mirror_completion(visible, seen)) == 0
