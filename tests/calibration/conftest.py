"""Rigs with known truth: rendered pictures for what the eye sees, noisy corners for statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("scipy", reason="pip install 'zerograsp-edge[calibration]'")

from zerograsp_edge.calibration.board import detect
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.hand_eye import Calibration, View
from zerograsp_edge.calibration.simulation import Rig, board_views, make_rig
from zerograsp_edge.calibration.transforms import angle_between

K = np.array([[615.0, 0, 321.3], [0, 614.2, 238.1], [0, 0, 1]])
DISTORTION = np.array([-0.12, 0.08, 0.001, -0.0005, 0.0])

MakeViews = Callable[..., list[View]]


@pytest.fixture(scope="session")
def distorted() -> CameraModel:
    return CameraModel(K, DISTORTION, (640, 480), "825312070001")


@pytest.fixture(scope="session", params=["eye-in-hand", "eye-to-hand"])
def rig(request: pytest.FixtureRequest, distorted: CameraModel) -> Rig:
    return make_rig(request.param, seed=3, camera=distorted)


@pytest.fixture(scope="session")
def corner_views() -> MakeViews:
    """View i sees the board at `poses[i]` with noisy corners; the robot reports its pose with its repeatability."""

    def make(rig: Rig, poses: np.ndarray, seed: int = 0, corner_px: float = 0.06) -> list[View]:
        rng = np.random.default_rng(seed)
        reported = rig.reported(rig.hand_pose(poses), rng)
        return [
            View(f"view{i:02d}", hand, rig.detection(pose, rng, corner_px))
            for i, (hand, pose) in enumerate(zip(reported, poses, strict=True))
        ]

    return make


@pytest.fixture(scope="session")
def rendered_views(rig: Rig) -> list[View]:
    """Twelve pictures, detected."""
    rng = np.random.default_rng(11)
    hands = rig.hand_pose(board_views(rig, 12, rng))
    reported = rig.reported(hands, rng)
    return [
        View(f"view{i:02d}", reported[i], detect(rig.board, rig.picture(hand, rng), rig.camera))
        for i, hand in enumerate(hands)
    ]


@pytest.fixture(scope="session")
def error_of() -> Callable[[Calibration, Rig], tuple[float, float]]:
    """Error of a calibration: degrees and mm."""

    def error(calibration: Calibration, rig: Rig) -> tuple[float, float]:
        difference = calibration.transform[:3, 3] - rig.mounted[:3, 3]
        return (
            float(np.degrees(angle_between(calibration.transform, rig.mounted))),
            float(1000 * np.linalg.norm(difference)),
        )

    return error
