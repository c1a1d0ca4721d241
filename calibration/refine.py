"""Joint refinement: camera mounting, board mounting and the robot's pose errors from all corners at once.

The board is seen in view i through the chain (X: camera mounting, Y: board mounting, A_i: base <- hand reported)

    eye-in-hand   camera <- board = X^-1  D_i A_i^-1  Y       X = hand <- camera, Y = base <- board
    eye-to-hand   camera <- board = X^-1  A_i D_i     Y       X = base <- camera, Y = hand <- board

D_i is the small error of the robot's pose, in the hand's frame. Robot poses are measurements
like corners, not truth: without D_i a robot error of 0.02 degrees (0.2 px at a focal length of 600)
would be taken for 24 independent corner errors, and the result for more certain than it is.

D_i touches its own view only, which makes the Jacobian a block arrow. The blocks are eliminated in closed form: the
residuals of a view get the covariance s^2 I + E S E^T (corner noise s, derivative E by D_i, robot variances S), are
whitened with its inverse square root, and 12 unknowns remain however many views there are.

The two noise levels are estimated with the result (expectation maximisation for the variance components), starting
from what the robot's data sheet says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board, Detection
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.transforms import (
    from_vector,
    invert,
    right_jacobian,
    rotation_matrix,
    skew,
    to_vector,
)
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.hand_eye import Mode

# Residuals beyond this many standard deviations count linearly (Huber), so that a bad corner cannot pull.
_HUBER = 3.0
_NOISE_ROUNDS = 4
# How many views the stated noise counts as when it is estimated: few views say little about it.
_PRIOR_VIEWS = 5
_MIN_PIXEL_SIGMA = 0.02
_MAX_EVALUATIONS = 60
# Median of a chi-square variable with three degrees of freedom, divided by three.
_MEDIAN_CHI2_3 = 0.7887
# Median of a Rayleigh variable (the length of a 2D normal error) at standard deviation 1.
_MEDIAN_RAYLEIGH = 1.1774


@dataclass(frozen=True)
class Noise:
    """Standard deviations per axis: corners, px; the robot's poses, rad and m."""

    pixel: float = 0.1
    rotation: float = float(np.radians(0.02))
    translation: float = 1e-4

    @property
    def robot_variance(self) -> np.ndarray:
        """(6,) variances of D_i."""
        return np.repeat([self.rotation**2, self.translation**2], 3)


@dataclass(frozen=True, eq=False)
class Views:
    """What is measured, ready for the model.

    Attributes:
        mode: eye-in-hand or eye-to-hand.
        chain: (n, 4, 4), A_i^-1 (eye-in-hand) or A_i (eye-to-hand).
        points: (N, 3) board corners of all views, m.
        pixels: (N, 2) where they were seen.
        view: (N,) the view of each.
        camera: the camera.
    """

    mode: Mode
    chain: np.ndarray
    points: np.ndarray
    pixels: np.ndarray
    view: np.ndarray
    camera: CameraModel

    @staticmethod
    def of(
        mode: Mode, hand: np.ndarray, detections: Sequence[Detection], board: Board, camera: CameraModel
    ) -> Views:
        """Views of base <- hand poses (n, 4, 4) and what was detected at them."""
        return Views(
            mode,
            invert(hand) if mode == "eye-in-hand" else np.asarray(hand, np.float64),
            np.concatenate([board.corners[d.ids] for d in detections]),
            np.concatenate([d.pixels for d in detections]),
            np.repeat(np.arange(len(hand)), [len(d.ids) for d in detections]),
            camera,
        )

    def __len__(self) -> int:
        return len(self.chain)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted pixels (N, 2) and their derivatives.

    Attributes:
        pixels: (N, 2).
        by_mounting: (N, 2, 12), by rotation vector and translation of X, then of Y.
        by_error: (N, 2, 6), by rotation vector and translation of D_i.
        by_scale: (N, 2), by a factor on the board's size.
    """

    pixels: np.ndarray
    by_mounting: np.ndarray
    by_error: np.ndarray
    by_scale: np.ndarray


def predict(views: Views, mounting: np.ndarray, errors: np.ndarray | None = None) -> Prediction:
    """The model above with its analytic derivatives.

    Args:
        mounting: (12,) rotation vector and translation of X, then of Y.
        errors: (n, 6) rotation vectors and translations of D_i; None takes them as zero.
    """
    errors = np.zeros((len(views), 6)) if errors is None else errors
    view = views.view
    rx, ry = rotation_matrix(mounting[:3]), rotation_matrix(mounting[6:9])
    rd, jd = rotation_matrix(errors[:, :3]), right_jacobian(errors[:, :3])
    rb, tb = views.chain[:, :3, :3], views.chain[:, :3, 3]
    on_board = views.points @ ry.T
    y = on_board + mounting[9:]

    if views.mode == "eye-in-hand":  # q = D (B y)
        s = np.einsum("nij,nj->ni", rb[view], y) + tb[view]
        q = np.einsum("nij,nj->ni", rd[view], s) + errors[view, 3:]
        q_by_y, q_by_error_end = (rd @ rb)[view], np.eye(3)[None]
    else:  # q = B (D y)
        s = y
        q = np.einsum("nij,nj->ni", rb[view], np.einsum("nij,nj->ni", rd[view], s) + errors[view, 3:])
        q = q + tb[view]
        q_by_y, q_by_error_end = (rb @ rd)[view], rb[view]
    camera_points = (q - mounting[3:6]) @ rx  # rows: R_X^T v

    origin = np.zeros(3)
    pixels, jacobian = cv2.projectPoints(
        np.ascontiguousarray(camera_points),
        origin,
        origin,
        views.camera.intrinsics,
        views.camera.distortion,
    )
    # The derivative by the camera's translation at rotation zero is that by the point; times R_X^T: by q.
    by_q = jacobian[:, 3:6].reshape(-1, 2, 3) @ rx.T
    by_y = by_q @ q_by_y
    by_end = by_q @ q_by_error_end
    by_mounting = np.concatenate(
        [
            # d R(-w) v / d w = R(-w) [v] J_r(-w), and by_q already ends with R(-w)
            by_q @ skew(q - mounting[3:6]) @ right_jacobian(-mounting[:3]),
            -by_q,
            # d R(w) p / d w = -R(w) [p] J_r(w)
            -by_y @ ry @ skew(views.points) @ right_jacobian(mounting[6:9]),
            by_y,
        ],
        axis=2,
    )
    by_error = np.concatenate([-by_end @ rd[view] @ skew(s) @ jd[view], by_end], axis=2)
    return Prediction(pixels.reshape(-1, 2), by_mounting, by_error, np.einsum("nij,nj->ni", by_y, on_board))


@dataclass(frozen=True, eq=False)
class Refined:
    """Result of the refinement.

    Attributes:
        camera_mounting, board_mounting: X and Y, (4, 4), m.
        errors: (n, 6) estimated D_i: rad, m.
        noise: estimated standard deviations.
        information: (12, 12) inverse covariance of X and Y: rotation (rad, right perturbation: R Exp(e)) and
            translation (m), the robot's errors marginalised out.
        reprojection_px: (n,) RMS corner distance of each view.
        scale, scale_sigma: factor by which the board seems larger than stated, less 1, and its standard
            deviation.
    """

    camera_mounting: np.ndarray
    board_mounting: np.ndarray
    errors: np.ndarray
    noise: Noise
    information: np.ndarray
    reprojection_px: np.ndarray
    scale: float
    scale_sigma: float

    @property
    def covariance(self) -> np.ndarray:
        """(6, 6) covariance of X; infinite variances where the views say nothing."""
        return covariance_of_camera(self.information)


def covariance_of_camera(information: np.ndarray) -> np.ndarray:
    """(6, 6) covariance of X from the information (12, 12) of X and Y; all infinite when that is singular."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    if values[0] < 1e-11 * values[-1]:
        return np.full((6, 6), np.inf)
    return ((vectors / values) @ vectors.T / np.outer(scale, scale))[:6, :6]


def one_view_information(
    mode: Mode, hand: np.ndarray, board: Board, camera: CameraModel, refined: Refined
) -> np.ndarray:
    """(12, 12) what a further view at base <- hand (4, 4), with all corners seen, would add to `information`."""
    chain = invert(hand)[None] if mode == "eye-in-hand" else hand[None]
    n = len(board.corners)
    view = Views(mode, chain, board.corners, np.zeros((n, 2)), np.zeros(n, np.int64), camera)
    x = np.concatenate([to_vector(refined.camera_mounting), to_vector(refined.board_mounting)])
    prediction = predict(view, x)
    change = _to_right_perturbation(x)
    information = view_information(
        prediction.by_mounting.reshape(-1, 12), prediction.by_error.reshape(-1, 6), refined.noise
    )
    return change.T @ information @ change


def refine(
    views: Views, camera_mounting: np.ndarray, board_mounting: np.ndarray, stated: Noise | None = None
) -> Refined:
    """Minimise from a start near the solution.

    Args:
        camera_mounting, board_mounting: X and Y to start from, (4, 4).
        stated: noise to start from, the robot's repeatability above all; default: `Noise()`.

    Raises:
        MissingExtra: scipy is not installed.
    """
    optimize = require("scipy.optimize", "calibration", "refine a hand-eye calibration")
    stated = noise = stated or Noise()
    x = np.concatenate([to_vector(camera_mounting), to_vector(board_mounting)])
    for round_ in range(_NOISE_ROUNDS):
        problem = _Problem(views, noise, x)
        x = optimize.least_squares(
            problem.residuals,
            x,
            jac=problem.jacobian,
            loss="huber",
            f_scale=_HUBER,
            x_scale="jac",
            xtol=1e-11,
            ftol=1e-11,
            gtol=None,
            max_nfev=_MAX_EVALUATIONS,
        ).x
        if round_ < _NOISE_ROUNDS - 1:
            noise = _estimated_noise(views, x, noise, stated)
    return _result(views, x, noise)


class _Problem:
    """Whitened residuals of all corners and their Jacobian for `least_squares`.

    The whitening is that of the round's start. With E / s = U diag(e) V^T after scaling by the robot's standard
    deviations, it is (I - U diag(1 - 1 / sqrt(1 + e^2)) U^T) / s: the symmetric root, which keeps a bad corner's
    residual at that corner, where the robust loss finds it.
    """

    def __init__(self, views: Views, noise: Noise, x: np.ndarray) -> None:
        self.views, self.noise = views, noise
        self._at, self._prediction = x.copy(), predict(views, x)
        scaled = self._prediction.by_error * np.sqrt(noise.robot_variance) / noise.pixel
        self._rows = [np.flatnonzero(views.view == i) for i in range(len(views))]
        self._shrink = []
        for rows in self._rows:
            u, e, _ = np.linalg.svd(scaled[rows].reshape(-1, 6), full_matrices=False)
            self._shrink.append((u, 1 - 1 / np.sqrt(1 + e**2)))

    def residuals(self, x: np.ndarray) -> np.ndarray:
        return self._whitened((self._predict(x).pixels - self.views.pixels)[..., None])[:, 0]

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        return self._whitened(self._predict(x).by_mounting)

    def _whitened(self, values: np.ndarray) -> np.ndarray:
        """(N, 2, p) to (2 N, p), views one after another."""
        parts = []
        for rows, (u, shrink) in zip(self._rows, self._shrink, strict=True):
            part = values[rows].reshape(-1, values.shape[2])
            parts.append(part - u @ (shrink[:, None] * (u.T @ part)))
        return np.concatenate(parts) / self.noise.pixel

    def _predict(self, x: np.ndarray) -> Prediction:
        """`least_squares` asks for residuals and Jacobian at the same point."""
        if not np.array_equal(x, self._at):
            self._at, self._prediction = x.copy(), predict(self.views, x)
        return self._prediction


def view_information(by_mounting: np.ndarray, by_error: np.ndarray, noise: Noise) -> np.ndarray:
    """(p, p) information of one view about the mounting, with its robot error marginalised out.

    J^T (s^2 I + E S E^T)^-1 J by Woodbury's identity, with J (2 k, p), E (2 k, 6), pixel variance s^2 and
    robot variances S.
    """
    j, e = by_mounting / noise.pixel, by_error / noise.pixel
    inner = e.T @ e + np.diag(1 / noise.robot_variance)
    cross = e.T @ j
    return j.T @ j - cross.T @ np.linalg.solve(inner, cross)


def robot_errors(
    views: Views, prediction: Prediction, noise: Noise
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The most probable D_i (n, 6), their covariances (6, 6) given the mounting, and how the mounting moves them
    (6, 12), from a prediction with all D_i = 0."""
    errors, covariances, by_mounting = np.empty((len(views), 6)), [], []
    for i in range(len(views)):
        rows = views.view == i
        e = prediction.by_error[rows].reshape(-1, 6) / noise.pixel
        own = np.linalg.inv(e.T @ e + np.diag(1 / noise.robot_variance))
        errors[i] = -own @ e.T @ (prediction.pixels - views.pixels)[rows].ravel() / noise.pixel
        covariances.append(own)
        by_mounting.append(own @ e.T @ prediction.by_mounting[rows].reshape(-1, 12) / noise.pixel)
    return errors, covariances, by_mounting


def _information(views: Views, prediction: Prediction, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """(13, 13) information of mounting and board scale, and the (13,) gradient of the residuals."""
    total, gradient = np.zeros((13, 13)), np.zeros(13)
    residuals = prediction.pixels - views.pixels
    for i in range(len(views)):
        rows = views.view == i
        columns = (prediction.by_mounting, prediction.by_scale[..., None], residuals[..., None])
        j = np.concatenate([c[rows] for c in columns], axis=2).reshape(-1, 14)
        both = view_information(j, prediction.by_error[rows].reshape(-1, 6), noise)
        total += both[:13, :13]
        gradient += both[:13, 13]
    return total, gradient


def _estimated_noise(views: Views, x: np.ndarray, noise: Noise, stated: Noise) -> Noise:
    """One round of expectation maximisation for the standard deviations, medians in place of means."""
    prediction = predict(views, x)
    errors, covariances, by_mounting = robot_errors(views, prediction, noise)
    difference = np.linalg.norm(predict(views, x, errors).pixels - views.pixels, axis=1)
    free = max(2 * len(difference) - 12 - 6 * len(views), 1) / (2 * len(difference))
    pixel = max(float(np.median(difference)) / _MEDIAN_RAYLEIGH / np.sqrt(free), _MIN_PIXEL_SIGMA)
    information, _ = _information(views, prediction, noise)
    if not np.isfinite(covariance_of_camera(information[:12, :12])).all():
        return replace(noise, pixel=pixel)  # a degenerate set says nothing about the robot
    mounting = np.linalg.inv(information[:12, :12])
    spread = [np.diag(c + m @ mounting @ m.T) for c, m in zip(covariances, by_mounting, strict=True)]
    moments = errors**2 + spread
    n, variance = len(views), stated.robot_variance[[0, 3]]
    measured = np.median(moments.reshape(-1, 2, 3).mean(axis=2), axis=0) / _MEDIAN_CHI2_3
    estimate = np.sqrt((_PRIOR_VIEWS * variance + n * measured) / (_PRIOR_VIEWS + n))
    return Noise(pixel, float(estimate[0]), float(estimate[1]))


def _result(views: Views, x: np.ndarray, noise: Noise) -> Refined:
    prediction = predict(views, x)
    errors, _, _ = robot_errors(views, prediction, noise)
    total, gradient = _information(views, prediction, noise)
    change = _to_right_perturbation(x)
    scale, sigma = 0.0, float("inf")
    if np.isfinite(covariance_of_camera(total[:12, :12])).all():
        # One Gauss-Newton step of all 13, solved for the scale.
        cross = np.linalg.solve(total[:12, :12], np.stack([total[:12, 12], gradient[:12]], axis=1))
        left = total[12, 12] - total[12, :12] @ cross[:, 0]
        if left > 1e-9 * total[12, 12]:
            scale, sigma = float(-(gradient[12] - total[12, :12] @ cross[:, 1]) / left), float(left**-0.5)
    squares = ((predict(views, x, errors).pixels - views.pixels) ** 2).sum(axis=1)
    return Refined(
        from_vector(x[:6]),
        from_vector(x[6:]),
        errors,
        noise,
        change.T @ total[:12, :12] @ change,
        np.sqrt(np.bincount(views.view, squares) / np.bincount(views.view)),
        scale,
        sigma,
    )


def _to_right_perturbation(x: np.ndarray) -> np.ndarray:
    """(12, 12) d x by right perturbations of the rotations: d w = J_r^-1 e."""
    change = np.eye(12)
    change[:3, :3] = np.linalg.inv(right_jacobian(x[:3]))
    change[6:9, 6:9] = np.linalg.inv(right_jacobian(x[6:9]))
    return change
