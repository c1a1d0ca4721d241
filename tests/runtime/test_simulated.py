"""The simulated camera: its pictures agree with the geometry they claim to show."""

from __future__ import annotations

import numpy as np
import pytest

from zerograsp_edge.runtime.camera.simulated import MAX_OBJECTS, GroundTruth, SimulatedCamera
from zerograsp_edge.runtime.errors import EndOfFrames
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.simulation.sensor import stereo_noise
from zerograsp_edge.runtime.simulation.shapes import Box, Capsule, Cylinder, RoundedBox, Shape, Sphere, Torus

SHAPES: list[Shape] = [
    Box((40, 20, 30)),
    Sphere(25),
    Cylinder(20, 35),
    Capsule(15, 30),
    Torus(35, 10),
    RoundedBox((30, 20, 25), 8),
]


def shot(seed: int = 4, count: int = 6, **options: object) -> tuple[Frame, GroundTruth]:
    camera = SimulatedCamera(seed, count, 320, 240, **options)
    frame = camera.read()
    return frame, camera.ground_truth


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_rays_end_on_the_surface_and_miss_nothing(shape: Shape) -> None:
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(4000, 3))
    origins *= 300 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-1, 1, (4000, 3)) * shape.bounding_radius - origins
    directions *= rng.uniform(0.2, 3, (4000, 1))
    t = shape.intersect(origins, directions)
    hit = np.isfinite(t)
    assert 0.2 < hit.mean() < 0.99
    assert np.abs(shape.distance(origins[hit] + t[hit, None] * directions[hit])).max() < 0.02
    # Nothing lies before a hit, or anywhere on a miss.
    limit = np.where(hit, t * (1 - 1e-4), 4.0 * 300 / np.linalg.norm(directions, axis=1))
    for share in np.linspace(0, 1, 400):
        assert shape.distance(origins + (share * limit)[:, None] * directions).min() > -0.02


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_mesh_is_closed_and_lies_on_the_surface(shape: Shape) -> None:
    mesh = shape.mesh()
    assert mesh.is_watertight and mesh.volume > 0
    assert np.abs(shape.distance(np.asarray(mesh.vertices))).max() < 0.02
    np.testing.assert_allclose(mesh.bounds, [-shape.half_extents, shape.half_extents], atol=0.1)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_distance_is_a_distance(shape: Shape) -> None:
    """Its gradient has length one, and walking it leads to the surface."""
    points = np.random.default_rng(1).uniform(-80, 80, (500, 3))
    outside = points[shape.distance(points) > 1]
    normals = shape.normals(outside)
    gradient = (shape.distance(outside + 0.01 * normals) - shape.distance(outside - 0.01 * normals)) / 0.02
    np.testing.assert_allclose(gradient, 1, atol=1e-3)
    foot = outside - shape.distance(outside)[:, None] * normals
    assert np.abs(shape.distance(foot)).max() < 1e-2


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_lies_on_what_the_mask_says(seed: int) -> None:
    frame, truth = shot(seed)
    points = frame.point_image().astype(np.float64)
    assert (frame.depth > 0).all()
    for item in truth.objects:
        own = frame.mask == item.object_id
        if own.any():
            assert np.abs(item.distance(points[own])).max() < 0.05
    to_table = points @ truth.camera_pose[:3, :3].T + truth.camera_pose[:3, 3]
    assert np.abs(to_table[frame.mask == 0][:, 2]).max() < 0.05
    assert to_table[..., 2].min() > -0.05


def test_nothing_stands_before_the_depth() -> None:
    """Points a little nearer than the depth are free: no object is missing from mask and depth."""
    frame, truth = shot(7, 8)
    points = frame.point_image().reshape(-1, 3).astype(np.float64)
    for share in (0.5, 0.8, 0.9, 0.95, 0.99):
        for item in truth.objects:
            assert item.distance(points * share).min() > -0.05


def test_objects_rest_on_the_table_and_keep_apart() -> None:
    for seed in range(6):
        scene = SimulatedCamera(seed, 12).scene
        meshes = [item.mesh() for item in scene]
        for item, mesh in zip(scene, meshes, strict=True):
            assert mesh.bounds[0][2] == pytest.approx(0, abs=0.05)
            for other in scene:
                if other is not item:
                    assert other.distance(np.asarray(mesh.vertices)).min() > 1.0


def test_visible_fraction_counts_occlusion() -> None:
    shots = (shot(seed, 8) for seed in range(20))
    frame, truth = next(
        pair for pair in shots if min(item.visible_fraction for item in pair[1].objects) < 0.9
    )
    assert [item.object_id for item in truth.objects] == [1, 2, 3, 4, 5, 6, 7, 8]
    fractions = [item.visible_fraction for item in truth.objects]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    hidden = int(np.argmin(fractions))
    alone = truth.objects[hidden]
    u, v = np.meshgrid(np.arange(frame.width), np.arange(frame.height))
    rays = np.linalg.inv(frame.intrinsics) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    rotation, translation = alone.pose[:3, :3], alone.pose[:3, 3]
    whole = np.isfinite(alone.source.shape.intersect(-translation @ rotation, rays.T @ rotation)).sum()
    assert fractions[hidden] == pytest.approx((frame.mask == alone.object_id).sum() / whole, abs=0.01)


def test_the_camera_looks_down_from_working_distance() -> None:
    for seed in range(5):
        camera = SimulatedCamera(seed)
        frame = camera.read()
        assert 450 < frame.depth[frame.height // 2, frame.width // 2] < 900
        assert camera.ground_truth.camera_pose[2, 2] < -0.7
        assert frame.intrinsics[0, 0] == pytest.approx(615)
        assert len(frame.object_ids()) == 5


def test_same_seed_same_frames() -> None:
    first, second = SimulatedCamera(11, 4, 160, 120), SimulatedCamera(11, 4, 160, 120)
    for _ in range(3):
        a, b = first.read(), second.read()
        assert (a.rgb == b.rgb).all() and (a.depth == b.depth).all() and (a.mask == b.mask).all()
    again, _ = first.render(2)
    assert (again.rgb == a.rgb).all() and again.timestamp == a.timestamp
    other = SimulatedCamera(12, 4, 160, 120).read()
    assert (other.mask != SimulatedCamera(11, 4, 160, 120).read().mask).any()


def test_the_camera_moves_unless_told_not_to() -> None:
    moving, still = SimulatedCamera(1, 3, 160, 120), SimulatedCamera(1, 3, 160, 120, moving=False)
    (first, _), (later, _) = moving.render(0), moving.render(30)
    assert (first.depth != later.depth).mean() > 0.9 and later.timestamp == 1.0
    assert (still.render(0)[0].depth == still.render(30)[0].depth).all()


def test_stream_ends_when_asked() -> None:
    with SimulatedCamera(0, 1, 64, 48, num_frames=2) as camera:
        with pytest.raises(ValueError, match="call read"):
            _ = camera.ground_truth
        camera.read(), camera.read()
        with pytest.raises(EndOfFrames, match="2 frames"):
            camera.read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_objects": 0}, r"1\.\.32, got 0"),
        ({"num_objects": MAX_OBJECTS + 1}, "got 33"),
        ({"width": 8}, "at least 16x16, got 8x480"),
        ({"table": "glass"}, "one of wood, grid, got 'glass'"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedCamera(**options)


def test_many_objects_are_all_there() -> None:
    frame = SimulatedCamera(2, MAX_OBJECTS).read()
    assert len(frame.object_ids()) == MAX_OBJECTS


def test_stereo_noise_grows_with_the_square_of_depth() -> None:
    rng = np.random.default_rng(0)
    near = stereo_noise(np.full((200, 200), 500, np.float32), 615, rng)
    far = stereo_noise(np.full((200, 200), 1500, np.float32), 615, rng)
    assert near.std() / far.std() == pytest.approx(1 / 9, rel=0.2)
    # 0.06 pixels of disparity at 0.5 m, focal 615, baseline 50 mm: z^2 / (f b) * 0.06 = 0.49 mm
    assert near.std() == pytest.approx(0.5**2 * 1e6 / (615 * 50) * 0.06, rel=0.15)
    disparity = 615 * 50 / near[near > 0].astype(np.float64) * 32
    assert np.abs(disparity - np.rint(disparity)).max() < 1e-2


def test_stereo_noise_leaves_a_shadow_left_of_near_objects_only() -> None:
    depth = np.full((50, 200), 1000, np.float32)
    depth[:, 100:150] = 500
    holes = stereo_noise(depth, 600, np.random.default_rng(0)) == 0
    columns = np.flatnonzero(holes.mean(axis=0) > 0.5)
    assert columns.max() == 99
    assert len(columns) == pytest.approx(600 * 50 * (1 / 500 - 1 / 1000), abs=1)


def test_noisy_frame_is_still_a_frame() -> None:
    exact, truth = shot(3)
    noisy, _ = shot(3, depth_noise=True)
    assert (noisy.mask == exact.mask).all() and (truth.depth == exact.depth).all()
    seen = noisy.depth > 0
    assert 0.9 < seen.mean() < 1
    assert 0.1 < np.abs(noisy.depth - exact.depth)[seen].mean() < 5
