"""The camera check against rendered boards with known truth: intrinsics, depth scale, tilt, noise, bad views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="pip install 'zerograsp-edge[calibration]'")

from zerograsp_edge.calibration.board import Board, detect
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.camera_check import BoardView, CameraCheck, check_camera
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.simulation import Imaging, board_depth, checking_views, render
from zerograsp_edge.runtime.camera.correction import DepthCorrection, Pinhole
from zerograsp_edge.runtime.simulation.sensor import stereo_noise

SIZE = (640, 480)
FACTORY = Pinhole(610.0, 610.0, 321.0, 238.0)
# 1 % in the focal lengths, some pixels in the principal point.
TRUE = Pinhole(616.1, 616.1, 325.0, 235.5)
# 0.7 % in scale; at half a metre 0.4 % offset and up to 0.5 % from side to side.
DEPTH = DepthCorrection(1.007, 0.008, 0.012, -0.009)
BOARD = Board()


def depth_seen(exact: np.ndarray, camera: Pinhole, error: DepthCorrection, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 mm: what a camera measures whose depth needs that correction, with a stereo camera's noise."""
    plane = error.plane(camera, *SIZE)
    measured = error.scale / (1 / exact - plane)
    return stereo_noise(np.float32(measured), camera.fx, rng, disparity_error=0.06, shadows=False)


def take(
    poses: np.ndarray,
    true: Pinhole = TRUE,
    error: DepthCorrection = DEPTH,
    board: Board = BOARD,
    said: Board | None = None,
    seed: int = 0,
) -> list[BoardView]:
    """Pictures and depth of a camera with those true values, detected with the factory's."""
    rng = np.random.default_rng(seed)
    real, model = CameraModel(true.matrix, size=SIZE), CameraModel(FACTORY.matrix, size=SIZE)
    views = []
    for i, pose in enumerate(poses):
        picture = render(board, real, pose, Imaging(), rng)
        depth = depth_seen(board_depth(board, real, pose), true, error, rng)
        views.append(BoardView(f"{i:02d}", detect(said or board, picture, model), depth))
    return views


def check(views: list[BoardView], board: Board = BOARD) -> CameraCheck:
    return check_camera(board, views, CameraModel(FACTORY.matrix, size=SIZE))


def poses(count: int = 14, seed: int = 1, **options: object) -> np.ndarray:
    camera = CameraModel(TRUE.matrix, size=SIZE)
    return checking_views(BOARD, camera, count, np.random.default_rng(seed), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def off() -> list[BoardView]:
    return take(poses())


@pytest.fixture(scope="module")
def found(off: list[BoardView]) -> CameraCheck:
    return check(off)


def show(c: CameraCheck) -> None:
    print("\n", c.verdict, c.refined, "+-", np.round(c.sigma_intrinsics, 2))
    print(" depth", np.round(c.correction, 5), "+-", np.round(c.sigma_correction, 5))
    print(" corners", c.corners, "\n depth", c.depth, "\n bent", c.distortion, c.distortion_gain)
    print(c.raw.edges, c.raw.bin_bias_mm, c.corrected.bin_bias_mm, c.corrected.bin_noise_mm, c.raw.bin_disparity_px)
    for v in c.views: print(v)
    for x in c.criteria: print(x, x.met)
    print(c.missing, c.problems)


def test_show(found):
    show(found)
    show(check(take(poses(), FACTORY, DepthCorrection())))
