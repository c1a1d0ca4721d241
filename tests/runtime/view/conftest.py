"""A live result with shapes and grasps that are made up, so that what is drawn is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.live import LiveResult
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result

SCORES = (0.9, 0.6, 0.2)


def ball(index: int, object_id: int, centre: tuple[float, float, float]) -> ObjectReconstruction:
    """A ball of 30 mm at a place in mm, with a grasp for each of SCORES from the camera's side."""
    random = np.random.default_rng(index)
    normals = random.standard_normal((800, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = np.asarray(centre, np.float32) + 30 * normals
    count = len(SCORES)
    rotation = np.tile(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32), (count, 1, 1))  # approach along z
    grasps = Grasps(
        np.array(SCORES, np.float32), np.full(count, 0.07, np.float32), np.full(count, 0.02, np.float32), rotation,
        np.tile(np.asarray(centre, np.float32) / 1000, (count, 1)), np.full(count, object_id, np.int32),
    )  # fmt: skip
    origin = np.asarray(centre, np.float32) - 32
    nodes = np.unique(((points - origin) / 4).astype(np.int32), axis=0)
    offsets = origin + (nodes + 0.5) * 4 - np.asarray(centre, np.float32)
    sdf = (np.linalg.norm(offsets, axis=1) - 30).astype(np.float32)
    outward = (offsets / np.linalg.norm(offsets, axis=1, keepdims=True)).astype(np.float32)
    surface = (np.asarray(centre, np.float32) + 30 * outward).astype(np.float32)
    return ObjectReconstruction(object_id, index, surface, outward, sdf, nodes, origin, 4.0, grasps)


@pytest.fixture(scope="session")
def live_result() -> LiveResult:
    """Two balls before a simulated table; not to be changed."""
    frame = SimulatedCamera(1, 2, 320, 240).read()
    result = Result(
        (ball(0, 1, (-50, 0, 450)), ball(1, 2, (50, 0, 450))), timings={"segmentation": 8.0, "network": 20.0}
    )
    return LiveResult(7, frame, result, "", 10.0, 10.002, 10.003, 10.033, 10.034)


@pytest.fixture
def empty_result(live_result: LiveResult) -> LiveResult:
    return replace(live_result, number=8, result=None, problem="nothing stands on the *table*")
