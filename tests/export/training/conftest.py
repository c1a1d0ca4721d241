"""Training scenes made from the simulated camera: analytic shapes, exact surfaces, made-up grasp labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")

from zerograsp_edge.export.training.sample import ObjectSurface, SceneSample, View
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

SPACING = 1.2  # mm


def make_sample(
    seed: int, objects: int = 3, width: int = 128, height: int = 96, views: int = 1
) -> SceneSample:
    """A scene of the simulated camera as the scene generator would store it."""
    camera = SimulatedCamera(seed, objects, width, height, moving=True)
    rng = np.random.default_rng(seed)
    pictures = [camera.render(30 * i) for i in range(views)]
    surfaces = []
    for item in camera.scene:
        mesh = item.shape.mesh()
        count = int(2 * mesh.area / SPACING**2)
        # Own barycentric sampling: trimesh's draws from the global generator.
        faces = rng.choice(len(mesh.faces), count, p=mesh.area_faces / mesh.area)
        u = np.sort(rng.random((count, 2)), axis=1)
        weights = np.stack((u[:, 0], u[:, 1] - u[:, 0], 1 - u[:, 1]), axis=1)
        points = np.einsum("nk,nki->ni", weights, mesh.triangles[faces])
        points -= item.shape.distance(points)[:, None] * item.shape.normals(points)
        normals = item.shape.normals(points)
        surfaces.append(
            ObjectSurface(
                item.object_id,
                type(item.shape).__name__.lower(),
                item.pose,
                points.astype(np.float32),
                normals.astype(np.float32),
                make_grasps(normals, rng),
            )
        )
    return SceneSample(
        seed,
        "table",
        tuple(surfaces),
        tuple(
            View(
                frame.rgb,
                frame.depth,
                np.asarray(frame.mask, np.uint8),
                np.asarray(frame.intrinsics, np.float32),
                truth.camera_pose,
                np.array([o.visible_fraction for o in truth.objects], np.float32),
            )
            for frame, truth in pictures
        ),
    )


def make_grasps(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 10) labels at a third of the points: closing along the normal, approach at right angles to it."""
    n = len(normals)
    grasps = np.zeros((n, 10), np.float32)
    grasps[:, 0:2] = rng.uniform(0.2, 1, (n, 2))
    grasps[:, 2:5] = normals
    approach = np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)])
    grasps[:, 5:8] = approach / np.linalg.norm(approach, axis=1, keepdims=True)
    grasps[:, 8:10] = rng.uniform(0.2, 1, (n, 2))
    grasps[rng.random(n) > 1 / 3] = 0
    return grasps


@pytest.fixture(scope="session")
def sample() -> SceneSample:
    return make_sample(3)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four scenes of 1 to 3 objects."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, objects in enumerate((3, 1, 2, 3)):
        make_sample(seed, objects).save(folder / f"scene_{seed:04d}.npz")
    return folder
