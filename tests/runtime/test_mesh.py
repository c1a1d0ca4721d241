"""Meshes: closed for every input, outward, and where the shape is."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("skimage")
trimesh = pytest.importorskip("trimesh")

from zerograsp_edge.runtime.mesh import extract_mesh  # noqa: E402

VOXEL = 2.5
Distance = Callable[[np.ndarray], np.ndarray]
SHIFT = np.array([200, 180, 90])
ORIGIN = np.array([-640.0, -640.0, -80.0])


def sphere(radius: float) -> Distance:
    return lambda p: np.linalg.norm(p, axis=1) - radius


def box(*half: float) -> Distance:
    def distance(p: np.ndarray) -> np.ndarray:
        q = np.abs(p) - half
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)

    return distance


def torus(major: float, minor: float) -> Distance:
    return lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - major, p[:, 2]) - minor


def occupied_nodes(distance: Distance, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels (n, 3) that hold the surface point of their centre, its distance (n,) and normal (n, 3)."""
    count = int(reach / VOXEL) + 2
    axis = np.arange(-count, count)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    centres = (nodes + 0.5) * VOXEL
    sdf = distance(centres)
    near = np.abs(sdf) < VOXEL
    nodes, centres, sdf = nodes[near], centres[near], sdf[near]
    normals = np.stack(
        [distance(centres + step) - distance(centres - step) for step in np.eye(3) * 1e-3], axis=1
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    inside_voxel = (np.abs(normals * sdf[:, None]) <= VOXEL / 2 + 1e-6).all(axis=1)
    return nodes[inside_voxel], sdf[inside_voxel], normals[inside_voxel]


def mesh_of(distance: Distance, reach: float) -> tuple[trimesh.Trimesh, np.ndarray]:
    """The mesh, and its vertices in the shape's own frame."""
    nodes, sdf, normals = occupied_nodes(distance, reach)
    mesh = extract_mesh(nodes + SHIFT, sdf, normals, ORIGIN, VOXEL)
    return mesh, np.asarray(mesh.vertices) - ORIGIN - SHIFT * VOXEL


def assert_closed(mesh: trimesh.Trimesh) -> None:
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0


@pytest.mark.parametrize("radius", [6.0, 15.0, 31.3, 60.0])
def test_sphere(radius: float) -> None:
    mesh, vertices = mesh_of(sphere(radius), radius)
    assert_closed(mesh)
    assert mesh.body_count == 1
    assert np.abs(np.linalg.norm(vertices, axis=1) - radius).max() < 0.5


@pytest.mark.parametrize(
    ("distance", "reach", "volume", "error", "euler"),
    [
        (box(40, 22, 13), 40, 8 * 40 * 22 * 13, 1.3, 2),  # marching cubes cuts sharp corners
        (box(30, 30, 2), 30, 8 * 30 * 30 * 2, 1.3, 2),
        (torus(40, 12), 55, 2 * np.pi**2 * 40 * 12**2, 0.5, 0),
    ],
    ids=["box", "plate", "torus"],
)
def test_shape(distance: Distance, reach: float, volume: float, error: float, euler: int) -> None:
    mesh, vertices = mesh_of(distance, reach)
    assert_closed(mesh)
    assert mesh.euler_number == euler
    assert mesh.volume == pytest.approx(volume, rel=0.03)
    assert np.abs(distance(vertices)).max() < error


def test_normals_point_outward() -> None:
    mesh, vertices = mesh_of(sphere(20), 20)
    assert (np.einsum("ij,ij->i", mesh.face_normals, vertices[mesh.faces].mean(axis=1)) > 0).all()


def test_surface_with_small_holes_is_still_filled() -> None:
    nodes, sdf, normals = occupied_nodes(sphere(30), 30)
    kept = np.random.default_rng(3).random(len(nodes)) > 0.15
    mesh = extract_mesh(nodes[kept], sdf[kept], normals[kept], ORIGIN, VOXEL)
    assert_closed(mesh)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.05)


def test_stays_closed_after_export_merges_vertices() -> None:
    mesh, _ = mesh_of(torus(40, 12), 55)
    mesh.apply_scale(1e-3)
    reread = trimesh.load(io.BytesIO(mesh.export(file_type="glb")), file_type="glb", force="mesh")
    reread.merge_vertices(merge_tex=True, merge_norm=True)
    assert reread.is_watertight


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 2000),
    edge=st.integers(1, 20),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    rounded=st.booleans(),
)
def test_noise_gives_a_closed_mesh_or_none(
    seed: int, count: int, edge: int, scale: float, rounded: bool
) -> None:
    rng = np.random.default_rng(seed)
    nodes = np.unique(rng.integers(0, edge, (count, 3)), axis=0)
    sdf = rng.normal(size=len(nodes)) * scale
    normals = rng.normal(size=nodes.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mesh = extract_mesh(nodes, np.round(sdf) if rounded else sdf, normals, ORIGIN, VOXEL)
    if len(mesh.faces):
        assert_closed(mesh)


def test_meeting_tunnels_are_resolved() -> None:
    """Marching cubes alone leaves edges with four faces on some of these."""
    for seed in (0, 1, 2, 3):
        rng = np.random.default_rng(seed)
        nodes = np.stack(np.meshgrid(*[np.arange(14)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        normals = rng.normal(size=nodes.shape)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        assert_closed(extract_mesh(nodes, rng.normal(size=len(nodes)), normals, ORIGIN, VOXEL))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="without nodes"):
        extract_mesh(np.empty((0, 3), int), np.empty(0), np.empty((0, 3)), ORIGIN, VOXEL)
    with pytest.raises(ValueError, match=r"expected nodes \(n, 3\)"):
        extract_mesh(np.zeros((2, 3), int), np.zeros(3), np.zeros((2, 3)), ORIGIN, VOXEL)
