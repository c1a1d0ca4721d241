"""Rendered pictures agree with exact ray casting of the same world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder, Shape, Sphere
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

pytest.importorskip("mujoco", reason="rendering needs the extra `sim`")

from zerograsp_edge.runtime.simulation.render import RenderError, WorldRenderer
from zerograsp_edge.runtime.simulation.textures import PATTERNS, cube_map, square

WIDTH, HEIGHT = 320, 240
# Nothing symmetric, so that no error of sign or half a pixel hides.
INTRINSICS = np.array([[301.0, 0, 171.3], [0, 287.0, 108.6], [0, 0, 1]])


def placed(object_id: int, shape: Shape, position: tuple[float, ...], turn: float = 0.0) -> WorldObject:
    pose = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    pose[:3, 3] = position
    return WorldObject(object_id, "test", shape, pose, colour=(0.7, 0.03, 0.03))


WORLD = World(
    "table",
    (SupportBox(np.array([0.0, 0, -20]), np.array([450.0, 400, 20]), np.eye(3)),),
    (
        placed(1, Box((40, 25, 60)), (0, 0, 60), 0.4),
        placed(2, Sphere(45), (30, 90, 45)),
        placed(3, Cylinder(20, 40), (-90, -40, 40)),
    ),
    0,
)


def camera_at(eye: tuple[float, float, float], roll: float = 0.3) -> np.ndarray:
    """World <- camera, looking at (0, 20, 30)."""
    position = np.array(eye)
    forward = np.array([0.0, 20, 30]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1) @ np.array(
        [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    )
    pose[:3, 3] = position
    return pose


def cast(camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Exact depth (inf for none), mask, and per object which pixels it would cover alone."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(intrinsics).T
    rays = rays @ camera[:3, :3].T
    depth, mask, alone = np.full(len(rays), np.inf), np.zeros(len(rays), np.uint8), []
    solids = [(item.shape, item.pose[:3, :3], item.pose[:3, 3], item.object_id) for item in WORLD.objects]
    solids += [(Box(tuple(b.half)), b.rotation, b.centre, 0) for b in WORLD.support]
    for shape, rotation, centre, object_id in solids:
        t = shape.intersect((camera[:3, 3] - centre) @ rotation, rays @ rotation)
        closer = t < depth
        depth[closer], mask[closer] = t[closer], object_id
        alone.append(np.isfinite(t))
    return depth.reshape(HEIGHT, WIDTH), mask.reshape(HEIGHT, WIDTH), alone


@pytest.fixture(scope="module")
def renderer() -> Iterator[WorldRenderer]:
    try:
        made = WorldRenderer(WORLD, np.random.default_rng(0), WIDTH, HEIGHT)
    except RenderError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.mark.parametrize("eye", [(300.0, -300, 350), (-200.0, 500, 250), (50.0, 60, 600)])
def test_depth_and_mask_are_those_of_rays(renderer: WorldRenderer, eye: tuple[float, float, float]) -> None:
    camera = camera_at(eye)
    depth, mask = renderer.geometry(camera, INTRINSICS)
    exact, exact_mask, _ = cast(camera, INTRINSICS)
    seen = np.isfinite(exact)
    assert (mask == exact_mask)[seen].mean() > 0.9995
    error = np.abs(depth - exact)[seen & (mask == exact_mask)]
    # Meshes of round things lie inside them by up to 0.05 mm, more along a grazing ray.
    assert np.median(error) < 0.01 and np.percentile(error, 99.5) < 0.5
    # The comparison sees a quarter of a pixel.
    moved = INTRINSICS.copy()
    moved[0, 2] += 0.25
    _, shifted, _ = cast(camera, moved)
    assert (mask != shifted)[seen].sum() > 3 * (mask != exact_mask)[seen].sum() + 20


def test_visible_fraction_is_that_of_rays(renderer: WorldRenderer) -> None:
    camera = camera_at((60.0, -420, 160))
    picture = renderer.render(camera, INTRINSICS, np.random.default_rng(1))
    _, mask, alone = cast(camera, INTRINSICS)
    expected = [(mask == i + 1).sum() / max(alone[i].sum(), 1) for i in range(3)]
    assert min(expected) < 0.7 and max(expected) > 0.99
    np.testing.assert_allclose(picture.visible_fraction, expected, atol=0.01)


def test_views_do_not_depend_on_those_before(renderer: WorldRenderer) -> None:
    first, second = camera_at((300.0, -300, 350)), camera_at((-200.0, 500, 250), roll=-1)
    a = renderer.render(first, INTRINSICS, np.random.default_rng(3))
    renderer.render(second, INTRINSICS, np.random.default_rng(4))
    b = renderer.render(first, INTRINSICS, np.random.default_rng(3))
    with WorldRenderer(WORLD, np.random.default_rng(0), WIDTH, HEIGHT) as fresh:
        c = fresh.render(first, INTRINSICS, np.random.default_rng(3))
    for other in (b, c):
        for name in ("rgb", "depth", "mask", "visible_fraction"):
            np.testing.assert_array_equal(getattr(a, name), getattr(other, name), err_msg=name)


def test_colour_shows_the_object_and_lights_change(renderer: WorldRenderer) -> None:
    camera = camera_at((300.0, -300, 350))
    one = renderer.render(camera, INTRINSICS, np.random.default_rng(5))
    two = renderer.render(camera, INTRINSICS, np.random.default_rng(6))
    red, green, blue = one.rgb[one.mask == 1].mean(axis=0)
    assert red > 1.5 * max(green, blue) and red > 25
    assert np.abs(one.rgb.astype(int) - two.rgb).mean() > 2
    assert one.rgb.std() > 10
    np.testing.assert_array_equal(one.depth, two.depth)


def test_nothing_in_sight_is_zero(renderer: WorldRenderer) -> None:
    up = camera_at((300.0, -300, 350))
    up[:3, :3] = up[:3, :3] @ np.diag([1.0, -1, -1])
    picture = renderer.render(up, INTRINSICS, np.random.default_rng(0))
    assert (picture.mask == 0).all() and (picture.visible_fraction == 0).all()
    assert (picture.depth == 0).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_vary_about_their_colour(pattern: str) -> None:
    colour = np.array([0.3, 0.1, 0.05])
    faces = cube_map(pattern, colour, np.random.default_rng(0), size=24)
    assert faces.shape == (144, 24, 3) and faces.dtype == np.uint8
    assert faces.reshape(-1, 3).std(axis=0).max() > 1
    np.testing.assert_array_equal(faces, cube_map(pattern, colour, np.random.default_rng(0), size=24))
    assert square(pattern, colour, np.random.default_rng(0), size=32).shape == (32, 32, 3)


def test_cube_map_has_no_seams() -> None:
    """Neighbouring faces meet with like colours: the last column of +z is beside the first of +x's turned one."""
    size = 64
    faces = cube_map("noise", np.array([0.5, 0.4, 0.3]), np.random.default_rng(2), size).astype(int)
    right, _, up, _, front, _ = faces.reshape(6, size, size, 3)
    across = np.abs(front[:, -1] - right[:, 0]).mean()
    above = np.abs(front[0] - up[-1]).mean()
    step = np.abs(np.diff(front, axis=1)).mean()
    assert across < 4 * step and above < 4 * step


def test_unknown_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"plain, noise.*got 'tartan'"):
        square("tartan", np.zeros(3), np.random.default_rng(0))


def test_moved_objects_look_as_if_they_had_always_been_there(renderer: WorldRenderer) -> None:
    poses = np.array([item.pose for item in WORLD.objects])
    moved = poses.copy()
    moved[0, :3, :3] = placed(1, Sphere(1), (0, 0, 0), 1.1).pose[:3, :3] @ moved[0, :3, :3]
    moved[0, :3, 3] += (30, -60, 15)
    there = World(
        WORLD.support_kind,
        WORLD.support,
        tuple(replace(item, pose=pose) for item, pose in zip(WORLD.objects[:2], moved, strict=False)),
        0,
    )
    with WorldRenderer(there, np.random.default_rng(0), WIDTH, HEIGHT) as fresh:
        expected = fresh.geometry(camera_at((300.0, -300, 350)), INTRINSICS)
    renderer.move(moved, np.array([True, True, False]))
    depth, mask = renderer.geometry(camera_at((300.0, -300, 350)), INTRINSICS)
    renderer.move(poses, np.ones(3, bool))
    np.testing.assert_array_equal(mask, expected[1])
    assert set(np.unique(mask)) == {0, 1, 2}
    np.testing.assert_allclose(depth[mask > 0], expected[0][mask > 0], atol=0.01)
