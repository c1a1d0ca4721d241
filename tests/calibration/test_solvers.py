from __future__ import annotations

import cv2
import numpy as np
import pytest

from zerograsp_edge.calibration.solvers import SOLVERS, motions
from zerograsp_edge.calibration.transforms import angle_between, from_vector, invert

RNG = np.random.default_rng(4)
X, Y = from_vector(RNG.normal(0, 0.5, 6)), from_vector(RNG.normal(0, 1, 6))
HAND = from_vector(RNG.normal(0, 0.5, (12, 6)))
BOARD = invert(X) @ invert(HAND) @ Y
NOISY = BOARD @ from_vector(RNG.normal(0, 1e-3, (12, 6)))


@pytest.mark.parametrize("name", SOLVERS)
def test_exact_without_noise(name: str) -> None:
    np.testing.assert_allclose(SOLVERS[name](*motions(HAND, BOARD)), X, atol=1e-9)


# Tsai's vector is infinite for a half turn.
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "Tsai"])
def test_right_with_three_views_and_half_turns(name: str) -> None:
    mounted = from_vector(np.array([np.pi, 0, 0, 0.1, 0.2, 0.3]))  # camera looking back at the flange
    board = invert(mounted) @ invert(HAND[:3]) @ Y
    np.testing.assert_allclose(SOLVERS[name](*motions(HAND[:3], board)), mounted, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_error_grows_like_the_noise(name: str) -> None:
    found = SOLVERS[name](*motions(HAND, NOISY))
    assert angle_between(found, X) < 2e-3
    assert np.linalg.norm(found[:3, 3] - X[:3, 3]) < 4e-3


@pytest.mark.skipif(not hasattr(cv2, "calibrateHandEye"), reason="OpenCV 5 has no calibrateHandEye")
@pytest.mark.parametrize("name", SOLVERS)
def test_agrees_with_opencv(name: str) -> None:
    rotation, translation = cv2.calibrateHandEye(
        HAND[:, :3, :3], HAND[:, :3, 3], NOISY[:, :3, :3], NOISY[:, :3, 3],
        method=getattr(cv2, f"CALIB_HAND_EYE_{name.upper()}"),
    )  # fmt: skip
    found = SOLVERS[name](*motions(HAND, NOISY))
    # Park, Horaud and Daniilidis are the same formulas; OpenCV's Tsai and Andreff weigh the motions differently and
    # agree within the noise (1e-3).
    tolerance = {"Tsai": 5e-4, "Andreff": 2e-3}.get(name, 1e-9)
    np.testing.assert_allclose(found[:3, :3], rotation, atol=tolerance)
    np.testing.assert_allclose(found[:3, 3], translation.ravel(), atol=tolerance)
