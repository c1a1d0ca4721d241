"""Distances against independent ways to find them: polygons, sweeps, radial shapes, distance grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.simulation.shapes import (
    Capsule,
    Crumpled,
    Cylinder,
    DistanceGrid,
    Extrusion,
    Revolution,
    RoundedBox,
    Sphere,
    Superquadric,
    Sweep,
    Torus,
    Union,
)
from zerograsp_edge.runtime.simulation.shapes import polygon as plane
from zerograsp_edge.runtime.simulation.shapes.families import HELD_OUT, TRAINED

pytest.importorskip("scipy", reason="distances of radial shapes need scipy (extra sim)")
from scipy.spatial import cKDTree

RNG = np.random.default_rng(0)
PROBE = RNG.uniform(-70, 70, (4000, 3))
SQUARE = np.array([(-20.0, -10), (20, -10), (20, 10), (-20, 10)])
U_SHAPE = np.array([(-3.0, -2), (3, -2), (3, 2), (2, 2), (2, -1), (-2, -1), (-2, 2), (-3, 2)])


def test_revolved_rectangle_is_a_cylinder() -> None:
    drum = Revolution.of(np.array([(0, 0), (25, 0), (25, 60), (0, 60)]))
    assert np.abs(drum.distance(PROBE) - Cylinder(25, 30).distance(PROBE)).max() < 1e-9


def test_revolved_half_circle_is_a_sphere() -> None:
    t = np.linspace(-np.pi / 2, np.pi / 2, 721)
    profile = 40 * np.stack([np.cos(t), np.sin(t)], axis=1)
    profile[[0, -1], 0] = 0
    ball = Revolution.of(profile)
    assert np.abs(ball.distance(PROBE) - Sphere(40).distance(PROBE)).max() < 1e-3
    on = PROBE / np.linalg.norm(PROBE, axis=1, keepdims=True) * 40
    assert np.abs(ball.normals(on) - on / 40).max() < 1e-3


def test_a_sharp_profile_keeps_its_face_normals() -> None:
    drum = Revolution.of(np.array([(0, 0), (25, 0), (25, 60), (0, 60)]))
    near_edge = np.array([[25, 0, 29.99], [24.99, 0, 30]])
    assert np.allclose(drum.normals(near_edge), [[1, 0, 0], [0, 0, 1]])


def test_extruded_rectangle_is_a_rounded_box() -> None:
    block = Extrusion(SQUARE, 12.0, 3.0)
    assert np.abs(block.distance(PROBE) - RoundedBox((23, 13, 15), 3.0).distance(PROBE)).max() < 1e-9
    assert np.array_equal(block.half_extents, [23, 13, 15])


def test_two_equal_balls_are_a_capsule() -> None:
    tube = Sweep(np.array([[0.0, 0, -20], [0, 0, 20]]), np.array([8.0, 8]))
    assert np.abs(tube.distance(PROBE) - Capsule(8, 20).distance(PROBE)).max() < 1e-9


def test_a_taper_is_the_nearest_of_all_its_balls() -> None:
    taper = Sweep(np.array([[-20.0, 0, 0], [15, 0, 5], [25, 0, 30]]), np.array([14.0, 5, 9]))
    t = np.linspace(0, 1, 4001)[:, None]
    steps = [(a + t * (b - a), ra + t[:, 0] * (rb - ra)) for a, b, ra, rb in zip(
        taper.centres[:-1], taper.centres[1:], taper.radii[:-1], taper.radii[1:], strict=True)]  # fmt: skip
    points = PROBE[:400]
    true = np.min([(np.linalg.norm(points[:, None] - c, axis=2) - r).min(axis=1) for c, r in steps], axis=0)
    distance = taper.distance(points)
    assert np.abs(distance - true).max() < 1e-3
    feet = points - distance[:, None] * taper.normals(points)
    assert np.abs(taper.distance(feet))[distance > 0].max() < 1e-6


def test_a_sweep_refuses_balls_within_balls() -> None:
    with pytest.raises(ValueError, match="contains its neighbour"):
        Sweep.placed(np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([5.0, 2.0]))


def test_a_profile_must_run_from_axis_to_axis_upwards() -> None:
    with pytest.raises(ValueError, match="starts and ends at r = 0"):
        Revolution.of(np.array([(1, 0), (5, 0), (5, 9), (0, 9)]))
    with pytest.raises(ValueError, match="reversed"):
        Revolution.of(np.array([(0, 9), (5, 9), (5, 0), (0, 0)]))


def test_union_asks_no_member_too_few() -> None:
    members = (RoundedBox((20, 8, 5), 2), np.array([3.0, 0, -9])), (Torus(15, 4), np.array([-12.0, 6, 10]))
    union = Union.of(*members, (Sphere(9), np.array([20.0, -15, 4])))
    brute = np.min([m.shape.distance(PROBE - m.at) for m in union.members], axis=0)
    assert np.array_equal(union.distance(PROBE), brute)
    low, high = union.mesh().bounds
    assert np.abs(np.array([-low, high]) - union.half_extents).max() < 0.1


def test_a_superquadric_of_exponents_one_is_a_sphere() -> None:
    ball = Superquadric((40, 40, 40), 1.0, 1.0)
    true = Sphere(40).distance(PROBE)
    off = np.abs(ball.distance(PROBE) - true)
    assert off[np.abs(true) < 12].max() < 0.01 and off[true > -30].max() < 0.4


@pytest.mark.parametrize("family", ["superquadric", "crumpled"])
@pytest.mark.parametrize("seed", range(3))
def test_radial_distances_are_within_a_fifth_of_a_millimetre(family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = TRAINED[family](rng, 120.0)
    # Rays all over, bent towards the faces' edges by the box: 0.4 mm apart, a mesh apart from the shape's own.
    i = np.linspace(-1, 1, 301)
    face = np.stack(np.meshgrid(i, i), axis=-1).reshape(-1, 2)
    sides = [np.insert(face, axis, side, axis=1) for axis in range(3) for side in (-1.0, 1.0)]
    cube = np.concatenate(sides) * shape.half
    surface = cube / shape.gauge(cube)[:, None]
    points = surface[rng.integers(0, len(surface), 3000)] + rng.normal(0, 4, (3000, 3))
    true = cKDTree(surface).query(points)[0]
    off = np.abs(shape.distance(points + shape.star)) - true
    # the reference, too, is off sideways by up to half its spacing: d - sqrt(d^2 - 0.3^2)
    slack = true - np.sqrt(np.maximum(true**2 - 0.3**2, 0))
    assert off[true < 5].max() < 0.2 and off.max() < 0.5
    assert (off + slack).min() > -0.05


def test_crumples_must_not_reach_the_middle() -> None:
    with pytest.raises(ValueError, match="expected less than"):
        Crumpled.of(np.ones(3), np.ones((2, 3)), np.zeros(2), np.array([0.3, 0.3]), 50.0)


def test_crumpled_normals_are_the_gradient() -> None:
    shape = TRAINED["crumpled"](np.random.default_rng(3), 90.0)
    points = np.asarray(shape.mesh().vertices)[::97] - shape.star
    steps = 1e-4 * np.eye(3)
    gradient = np.stack([shape.gauge(points + e) - shape.gauge(points - e) for e in steps], axis=1)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert np.abs(gradient - shape.normals(points + shape.star)).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.4, 1.0), min_size=5, max_size=14), st.integers(0, 2**32 - 1))
def test_polygon_distance_and_cutting(radii: list[float], seed: int) -> None:
    """Star-shaped polygons: distance against points along the boundary, pieces against area and sign."""
    turn = np.arange(len(radii)) * 2 * np.pi / len(radii)
    outline = 20 * np.array(radii)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = np.random.default_rng(seed).uniform(-25, 25, (100, 2))
    found = plane.nearest(outline, points)
    dense = plane.along(outline, 400)
    assert np.abs(np.abs(found.distance) - cKDTree(dense).query(points)[0]).max() < 0.06
    a, b = outline[found.edge], np.roll(outline, -1, axis=0)[found.edge]
    foot = a + found.along[:, None] * (b - a)
    assert np.allclose(np.linalg.norm(points - foot, axis=1), np.abs(found.distance))
    pieces = plane.convex_pieces(outline, 1e-9)
    areas = [_area(piece) for piece in pieces]
    assert min(areas) > 0 and sum(areas) == pytest.approx(_area(outline))
    inside = np.zeros(len(points), bool)
    for piece in pieces:
        inside |= plane.nearest(piece, points).distance < 0
    clear = np.abs(found.distance) > 1e-6
    off_cuts = np.abs([plane.nearest(piece, points).distance for piece in pieces]).min(axis=0) > 1e-6
    assert np.array_equal(inside[clear & off_cuts], (found.distance < 0)[clear & off_cuts])


def test_rounding_keeps_to_the_edges() -> None:
    round_u = plane.rounded(U_SHAPE, 0.4)
    off = plane.nearest(U_SHAPE, round_u).distance
    # convex corners lose, reflex ones gain, by (sqrt 2 - 1) r at most
    assert off.min() > -0.42 * 0.4 and off.max() < 0.42 * 0.4 and off.max() > 0.1 and off.min() < -0.1
    assert np.array_equal(plane.rounded(U_SHAPE, 0.0), U_SHAPE)


def test_triangulation_refuses_a_reversed_polygon() -> None:
    with pytest.raises(ValueError, match="counterclockwise"):
        plane.triangulate(U_SHAPE[::-1])


@pytest.mark.parametrize("family", ["box", "bottle", "mug", "banana", "crumpled", "gear", "torus"])
def test_grid_agrees_with_the_distance(family: str) -> None:
    shape = {**TRAINED, **HELD_OUT}[family](np.random.default_rng(1), 110.0)
    grid = DistanceGrid(shape, voxel_mm=2.0, margin_mm=15.0)
    rng = np.random.default_rng(2)
    vertices = np.asarray(shape.mesh().vertices)
    near = vertices[rng.integers(0, len(vertices), 3000)] + rng.normal(0, 2, (3000, 3))
    points = np.concatenate([near, rng.uniform(-1, 1, (3000, 3)) * (shape.half_extents + 15)])
    found = grid.distance(points)
    assert found.dtype == np.float32
    true = shape.distance(points)
    off, close = np.abs(found - true), np.abs(true) < 5
    assert off[close].max() < 1.3 and np.mean(off[close]) < 0.25 and np.percentile(off[close], 95) < 0.7
    assert off.max() < 5 and off[~close].mean() < 0.7


def test_grid_nodes_near_the_surface_are_exact() -> None:
    shape = TRAINED["mug"](np.random.default_rng(1), 80.0)
    grid = DistanceGrid(shape, voxel_mm=2.0, margin_mm=6.0)
    upper = np.ceil((shape.half_extents + 6) / 4) * 4  # whole blocks of four voxels about the origin
    axes = [np.arange(-u, u + 1, 2.0) for u in upper]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    true = shape.distance(nodes)
    close = np.abs(true) < 5
    assert np.abs(grid.distance(nodes[close]) - true[close]).max() < 1e-3


def test_beyond_the_grid_distance_is_a_lower_bound() -> None:
    shape = TRAINED["l_part"](np.random.default_rng(4), 90.0)
    grid = DistanceGrid(shape, margin_mm=10.0)
    rng = np.random.default_rng(5)
    points = rng.normal(size=(5000, 3))
    points *= rng.uniform(100, 600, (5000, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
    found, true = grid.distance(points), shape.distance(points)
    assert (found <= true + 1.0).all()
    assert (found > 0.7 * true - 10).all()  # and not an idle one


def test_grid_refuses_a_spacing_of_zero() -> None:
    with pytest.raises(ValueError, match="positive spacing"):
        DistanceGrid(Sphere(20), voxel_mm=0.0)


def _area(polygon: np.ndarray) -> float:
    after = np.roll(polygon, -1, axis=0)
    return float(np.sum(polygon[:, 0] * after[:, 1] - polygon[:, 1] * after[:, 0]) / 2)
