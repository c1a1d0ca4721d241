"""Intrinsics from pictures of a board: bundle adjustment over the board's poses, held near the factory's values.

Zhang, A Flexible New Technique for Camera Calibration (2000), with a normal prior on the intrinsics, Huber's weights on
corners, and poses eliminated view by view (Schur complement), so that leaving views out in turn stays cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board, Detection
from zerograsp_edge.calibration.transforms import from_vector, to_vector
from zerograsp_edge.runtime.camera.correction import Pinhole

# How far the factory's values may be off, one standard deviation: focal lengths relative; the principal point as a
# share of the focal length; k1 and k2 that rectification should have left at 0.
PRIOR_FOCAL, PRIOR_CENTRE, PRIOR_DISTORTION = 0.01, 0.01, 0.02
# Corners farther off than this many standard deviations count linearly.
_HUBER = 2.5
# Corner noise is never taken to be less, px.
_LEAST_NOISE_PX = 0.02
_STEPS = 30


@dataclass(frozen=True, eq=False)
class IntrinsicsFit:
    """Refined intrinsics.

    Attributes:
        camera: focal lengths and principal point, px.
        distortion: (2,) k1, k2; zeros where they were not asked for.
        poses: (n, 4, 4) camera <- board, m.
        rms_px: (n,) distance of every view's corners.
        covariance: (4, 4) of fx, fy, cx, cy, px^2: what corners and prior leave open.
        noise_px: standard deviation of a corner, per axis.
    """

    camera: Pinhole
    distortion: np.ndarray
    poses: np.ndarray
    rms_px: np.ndarray
    covariance: np.ndarray
    noise_px: float


def fit_intrinsics(
    board: Board, views: Sequence[Detection], factory: Pinhole, *, distortion: bool = False
) -> IntrinsicsFit:
    """Refine intrinsics, which start at the factory's.

    Args:
        views: at least one.
        distortion: whether k1 and k2 are refined, too.
    """
    focal = factory.fx
    start = np.array([factory.fx, factory.fy, factory.cx, factory.cy, 0.0, 0.0])
    prior = np.array([PRIOR_FOCAL * factory.fx, PRIOR_FOCAL * factory.fy, *2 * [PRIOR_CENTRE * focal],
                      *2 * [PRIOR_DISTORTION]])  # fmt: skip
    free = 6 if distortion else 4
    value, poses = start.copy(), to_vector(np.stack([v.camera_from_board for v in views]))
    noise = _noise(_differences(board, views, value, poses), free + 6 * len(views))
    information = np.diag(1 / prior[:free] ** 2)
    for _ in range(_STEPS):
        # Poses are eliminated: information S and right-hand side g of the intrinsics alone.
        information = np.diag(1 / prior[:free] ** 2)
        gradient = information @ (start - value)[:free]
        eliminated = []
        differences = []
        for view, pose in zip(views, poses, strict=True):
            difference, of_pose, of_camera = _linearised(board, view, value, pose)
            weight = np.repeat(_huber(np.linalg.norm(difference, axis=1) / noise), 2) / noise**2
            of_camera, r = of_camera[:, :free], difference.ravel()
            normal = of_pose.T @ (weight[:, None] * of_pose)
            coupling = of_camera.T @ (weight[:, None] * of_pose)
            pull = of_pose.T @ (weight * r)
            back = np.linalg.solve(normal, np.column_stack([coupling.T, pull]))
            information += of_camera.T @ (weight[:, None] * of_camera) - coupling @ back[:, :free]
            gradient += of_camera.T @ (weight * r) - coupling @ back[:, free]
            eliminated.append(back)
            differences.append(difference)
        step = np.linalg.solve(information, gradient)
        value[:free] += step
        poses = poses + np.stack([back[:, free] - back[:, :free] @ step for back in eliminated])
        previous, noise = noise, _noise(differences, free + 6 * len(views))
        if np.abs(step / prior[:free]).max() < 1e-6 and abs(noise - previous) < 1e-6:
            break
    rms = [float(np.sqrt((d**2).sum(axis=1).mean())) for d in _differences(board, views, value, poses)]
    return IntrinsicsFit(
        Pinhole(*map(float, value[:4])),
        value[4:].copy(),
        from_vector(poses),
        np.array(rms),
        np.linalg.inv(information)[:4, :4],
        noise,
    )


def _linearised(
    board: Board, view: Detection, value: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences (k, 2) of corners to predicted ones, and the prediction's derivatives (2k, 6) and (2k, 6)."""
    k = Pinhole(*map(float, value[:4])).matrix
    predicted, jacobian = cv2.projectPoints(
        board.corners[view.ids], pose[:3], pose[3:], k, np.append(value[4:], [0.0, 0.0])
    )
    # Columns: rotation vector, translation, fx fy, cx cy, k1 k2 p1 p2.
    return view.pixels - predicted.reshape(-1, 2), jacobian[:, :6], jacobian[:, 6:12]


def _differences(
    board: Board, views: Sequence[Detection], value: np.ndarray, poses: np.ndarray
) -> list[np.ndarray]:
    return [_linearised(board, view, value, pose)[0] for view, pose in zip(views, poses, strict=True)]


def _noise(differences: list[np.ndarray], parameters: int) -> float:
    """Standard deviation per axis from the median, which outliers do not move; corrected for fitted parameters."""
    values = np.abs(np.concatenate(differences)).ravel()
    freedom = max(values.size - parameters, values.size / 4)
    return max(1.4826 * float(np.median(values)) * float(np.sqrt(values.size / freedom)), _LEAST_NOISE_PX)


def _huber(sigmas: np.ndarray) -> np.ndarray:
    return _HUBER / np.maximum(sigmas, _HUBER)
