"""Members of every shape family: closed meshes, distances that agree with them, surface samples, determinism."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
import trimesh

from zerograsp_edge.runtime.simulation.shapes import HELD_OUT, TRAINED, Shape, draw_shape, surface_samples

pytest.importorskip("scipy", reason="distances of radial shapes need scipy (extra sim)")
pytest.importorskip("skimage", reason="meshes of compound shapes need scikit-image (extra mesh)")
from scipy.spatial import cKDTree

DRAWS = {**TRAINED, **HELD_OUT}
# Small members meet the clamps that keep features thick; 110 mm is ordinary.
CASES = [(family, size) for family in DRAWS for size in (32.0, 110.0)]
every_case = pytest.mark.parametrize(("family", "size"), CASES, ids=lambda value: str(value))
# Members overlap in these: inside, distance is only a bound.
UNIONS = {"mug", "l_part", "t_part", "hammer"}


@cache
def member(family: str, size: float) -> Shape:
    return DRAWS[family](np.random.default_rng([5, int(size)]), size)


@cache
def mesh_of(family: str, size: float) -> trimesh.Trimesh:
    return member(family, size).mesh()


@cache
def samples(family: str, size: float) -> tuple[np.ndarray, np.ndarray]:
    return surface_samples(member(family, size), 1.0, np.random.default_rng(0))


@cache
def mesh_points(family: str, size: float) -> np.ndarray:
    """Area-uniform points of the mesh as it is, four per mm^2 but at most 150000."""
    mesh = mesh_of(family, size)
    rng = np.random.default_rng(2)
    count = int(min(4 * mesh.area, 150_000))
    face = np.searchsorted(np.cumsum(mesh.area_faces), rng.random(count) * mesh.area)
    weights = rng.dirichlet([1, 1, 1], count)
    return np.einsum("nk,nkc->nc", weights, mesh.triangles[np.minimum(face, len(mesh.faces) - 1)])


def inside_mesh(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether a ray in some direction leaves through more faces than it enters by: parity of its crossings."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    a, b, c = np.moveaxis(triangles @ turn, 1, 0)
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    inside = np.empty(len(points), bool)
    for k, (x, y, z) in enumerate(points @ turn):
        near = np.flatnonzero((low[:, 0] <= x) & (high[:, 0] >= x) & (low[:, 1] <= y) & (high[:, 1] >= y))
        p, q, r = a[near], b[near], c[near]
        sides = np.stack(
            [(v[:, 0] - u[:, 0]) * (y - u[:, 1]) - (v[:, 1] - u[:, 1]) * (x - u[:, 0])
             for u, v in ((q, r), (r, p), (p, q))]
        )  # fmt: skip
        hit = (sides > 0).all(axis=0) | (sides < 0).all(axis=0)
        weights = sides[:, hit] / sides[:, hit].sum(axis=0)
        at = weights[0] * p[hit, 2] + weights[1] * q[hit, 2] + weights[2] * r[hit, 2]
        inside[k] = np.sum(at > z) % 2 == 1
    return inside


@every_case
def test_mesh_is_closed_outward_and_on_the_surface(family: str, size: float) -> None:
    shape = member(family, size)
    mesh = mesh_of(family, size)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert np.abs(shape.distance(np.asarray(mesh.vertices))).max() < 0.01
    # facets cut corners, but no further than a voxel of the mesh
    assert np.abs(shape.distance(mesh_points(family, size)[::10])).max() < max(0.5, size / 100)


@every_case
def test_extents(family: str, size: float) -> None:
    shape = member(family, size)
    low, high = mesh_of(family, size).bounds
    assert 2 * shape.half_extents.max() == pytest.approx(size, rel=0.011)
    assert np.abs(np.array([-low, high]) - shape.half_extents).max() < 0.01 * size
    assert np.linalg.norm(mesh_of(family, size).vertices, axis=1).max() <= shape.bounding_radius + 0.01 * size


@every_case
def test_distance_agrees_with_the_mesh(family: str, size: float) -> None:
    shape = member(family, size)
    surface = cKDTree(mesh_points(family, size))
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 1, (120, 3)) * (shape.half_extents * 1.1 + 8)
    near = mesh_points(family, size)[rng.integers(0, len(surface.data), 80)] + rng.normal(0, 3, (80, 3))
    points = np.concatenate([points, near])
    distance, true = shape.distance(points), surface.query(points)[0]
    inside = inside_mesh(mesh_of(family, size).triangles, points)
    clear = true > 1.2  # further off than the mesh's own error and the gaps between its points
    assert np.array_equal((distance < 0)[clear], inside[clear])
    exact = ~inside if family in UNIONS else np.ones(len(points), bool)
    assert np.abs(np.abs(distance) - true)[exact].max() < 0.8
    assert (np.abs(distance) - true).max() < 0.8


@every_case
def test_gradient_has_length_one_near_the_surface(family: str, size: float) -> None:
    shape, (points, normals) = member(family, size), samples(family, size)
    pick = np.random.default_rng(4).integers(0, len(points), 400)
    off = np.random.default_rng(5).uniform(-0.9, 0.9, (400, 1))
    points = points[pick].astype(np.float64) + off * normals[pick]
    change = [shape.distance(points + e) - shape.distance(points - e) for e in 0.01 * np.eye(3)]
    length = np.linalg.norm(change, axis=0) / 0.02
    # at the ridges next to edges it is shorter; nowhere is it longer
    assert np.mean(np.abs(length - 1) < 0.03) > 0.93
    assert np.mean(length > 1.03) < 0.01 and length.max() < 1.2


@every_case
def test_samples_lie_on_the_surface_with_its_normals(family: str, size: float) -> None:
    shape, (points, normals) = member(family, size), samples(family, size)
    assert points.dtype == normals.dtype == np.float32 and points.shape == normals.shape
    assert np.abs(shape.distance(points.astype(np.float64))).max() < 0.01
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-5
    # Along its normal a point's distance grows at rate one, both ways, where the surface does not turn nearby.
    pairs = cKDTree(points).query_pairs(1.6, output_type="ndarray")
    turning = np.einsum("ij,ij->i", normals[pairs[:, 0]], normals[pairs[:, 1]]) < 0.6
    smooth = np.ones(len(points), bool)
    smooth[pairs[turning].ravel()] = False
    assert smooth.mean() > 0.25
    for step in (0.3, -0.3):
        moved = shape.distance(points[smooth].astype(np.float64) + step * normals[smooth])
        assert np.mean(np.abs(moved - step) < 0.02) > 0.995


@every_case
def test_samples_cover_the_surface_evenly(family: str, size: float) -> None:
    points, _ = samples(family, size)
    gap, _ = cKDTree(points).query(mesh_points(family, size)[::7])
    assert gap.max() < 2.2 and np.percentile(gap, 99) < 1.5
    per_mm2 = len(points) / mesh_of(family, size).area
    assert 0.9 < per_mm2 < 1.8  # a slanted plane meets up to 1.73 cubes per square


def test_hollows_are_sampled_inside() -> None:
    points, normals = samples("bowl", 110.0)
    inward = np.einsum("ij,ij->i", points[:, :2], normals[:, :2]) < 0
    assert 0.25 < inward.mean() < 0.6


@pytest.mark.parametrize("family", DRAWS)
def test_draws_repeat_and_depend_on_the_seed(family: str) -> None:
    probe = np.random.default_rng(0).uniform(-60, 60, (200, 3))
    drawn = [draw_shape(np.random.default_rng(seed), family) for seed in (7, 7, 8)]
    first, again, other = (shape.distance(probe) for shape in drawn)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("family", DRAWS)
def test_drawn_sizes(family: str) -> None:
    rng = np.random.default_rng(11)
    extents = 2 * np.array([draw_shape(rng, family).half_extents for _ in range(40)])
    longest, narrowest = extents.max(axis=1), extents.min(axis=1)
    assert longest.min() > 20 * 0.98 and longest.max() < 250 * 1.02
    assert np.mean((longest > 45) & (longest < 225)) > 0.7
    assert np.mean(narrowest < 80) > 0.8
    assert narrowest.min() > 2.9
    assert longest.max() / longest.min() > 1.5


@every_case
def test_shapes_pickle(family: str, size: float) -> None:
    """Scenes are generated by several processes."""
    shape = member(family, size)
    probe = np.random.default_rng(0).uniform(-size, size, (50, 3))
    assert np.array_equal(pickle.loads(pickle.dumps(shape)).distance(probe), shape.distance(probe))


def test_families_are_apart() -> None:
    assert len(TRAINED) == 14 and len(HELD_OUT) == 8 and not set(TRAINED) & set(HELD_OUT)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match=r"'vase'; there are box, .*gear, cup"):
        draw_shape(np.random.default_rng(0), "vase")


def test_a_spacing_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        surface_samples(member("box", 32.0), 0.0, np.random.default_rng(0))


def test_samples_repeat() -> None:
    again = surface_samples(member("mug", 32.0), 1.0, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(samples("mug", 32.0), again, strict=True))
