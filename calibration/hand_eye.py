"""Hand-eye calibration: from views of a board to where the camera sits, how sure that is, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zerograsp_edge.calibration.board import Board, Detection
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.consensus import board_mounting, consensus
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.pose_set import (
    Assessment,
    Requirements,
    assess,
    rotation_diversity,
    sigmas,
)
from zerograsp_edge.calibration.refine import Noise, Refined, Views, predict, refine
from zerograsp_edge.calibration.solvers import SOLVERS, motions
from zerograsp_edge.calibration.transforms import angle_between, invert, to_vector
from zerograsp_edge.runtime.hand_eye import Mode, checked_pose

MIN_VIEWS = 3
# Squared Mahalanobis distance, chi-square with six degrees of freedom: exceeded by one right view in a million.
_OUTLIER = 38.26
_ROUNDS = 12
# Rejected views tell of a moved board when they agree on its new place to a fifth of how far it went: at least to
# the first of these, at most to the second (m, rad).
_SAME_PLACE = 0.2
_SAME_PLACE_M, _SAME_PLACE_RAD = (0.001, 0.004), (float(np.radians(0.1)), float(np.radians(0.7)))
# Below this RMS rotation about the second axis (rad) views cannot be told right from wrong.
_DEGENERATE_RAD = float(np.radians(1.0))


@dataclass(frozen=True, eq=False)
class View:
    """One picture of the board and where the hand was.

    Attributes:
        name: what reports call it.
        hand: (4, 4) base <- hand, m, as the robot reports it.
        detection: the board in the picture.
    """

    name: str
    hand: np.ndarray
    detection: Detection

    def __post_init__(self) -> None:
        object.__setattr__(self, "hand", checked_pose(self.hand, f"robot pose of {self.name}"))


@dataclass(frozen=True, eq=False)
class ViewResidual:
    """How a view fits the result.

    Attributes:
        name: the view's.
        used: False when it was rejected; `reason` says why.
        reprojection_px: RMS corner distance with the robot's pose error taken out; NaN when rejected.
        rotation_deg, translation_mm: by how much the reported robot pose differs from what the picture shows.
        sigmas: the same in standard deviations (root of the Mahalanobis distance; 6.2 is the limit).
    """

    name: str
    used: bool
    reprojection_px: float
    rotation_deg: float
    translation_mm: float
    sigmas: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Classical:
    """A classical solver's answer on the same views.

    Attributes:
        transform: (4, 4) camera mounting, m; None when it failed, `failure` says how.
        reprojection_px: RMS over all corners with the robot's poses taken as exact.
        rotation_deg, translation_mm: difference to the refined result.
    """

    transform: np.ndarray | None
    reprojection_px: float = float("nan")
    rotation_deg: float = float("nan")
    translation_mm: float = float("nan")
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The result.

    Attributes:
        transform: (4, 4), m: hand <- camera (eye-in-hand) or base <- camera (eye-to-hand).
        board_transform: (4, 4), m: base <- board (eye-in-hand) or hand <- board (eye-to-hand).
        covariance: (6, 6) of `transform`: rotation (rad, in the camera's frame), translation (m, in the
            hand's or base's frame).
        views: residuals of all views, in the order given.
        classical: the five solvers by name.
        notes: remarks on the measurement, such as a board that was moved or printed in another size.
    """

    mode: Mode
    transform: np.ndarray
    board_transform: np.ndarray
    covariance: np.ndarray
    noise: Noise
    views: tuple[ViewResidual, ...]
    classical: dict[str, Classical]
    assessment: Assessment
    notes: tuple[str, ...] = field(default=())

    @property
    def used(self) -> tuple[ViewResidual, ...]:
        return tuple(v for v in self.views if v.used)

    @property
    def rejected(self) -> tuple[ViewResidual, ...]:
        return tuple(v for v in self.views if not v.used)

    @property
    def sigma_rotation_deg(self) -> float:
        """Standard deviation of the worst axis."""
        return sigmas(self.covariance)[0]

    @property
    def sigma_translation_mm(self) -> float:
        """Standard deviation of the worst axis."""
        return sigmas(self.covariance)[1]


def calibrate(
    mode: Mode,
    views: Sequence[View],
    board: Board,
    camera: CameraModel,
    stated: Noise | None = None,
    requirements: Requirements | None = None,
) -> Calibration:
    """Calibrate from at least three views.

    A start by consensus, the joint refinement, and rejection of views whose robot pose differs from the picture's
    by more than noise explains, until the set of views is stable. A result is returned also when the poses do not
    suffice: `assessment.sufficient` is the verdict.

    Args:
        stated: the robot's repeatability and the corner noise to expect; both are estimated from the views, and
            these count as five views of that noise.

    Raises:
        CalibrationError: fewer than three views.
        MissingExtra: scipy is not installed.
    """
    if len(views) < MIN_VIEWS:
        raise CalibrationError(
            f"expected at least {MIN_VIEWS} views of the board, got {len(views)}; "
            f"add poses ({(requirements or Requirements()).views} or more are needed for a result to rely on)"
        )
    hand = np.stack([v.hand for v in views])
    seen = np.stack([v.detection.camera_from_board for v in views])
    # One axis or none: no view contradicts any other, and the verdict says what is missing.
    judging = rotation_diversity(seen)[1][1] > _DEGENERATE_RAD
    x, y, used = consensus(mode, hand, seen)
    if not judging:
        used[:] = True
    detections = [v.detection for v in views]
    everything = Views.of(mode, hand, detections, board, camera)
    history: list[bytes] = []
    for _ in range(_ROUNDS):
        kept = [d for d, u in zip(detections, used, strict=True) if u]
        refined = refine(Views.of(mode, hand[used], kept, board, camera), x, y, stated)
        x, y = refined.camera_mounting, refined.board_mounting
        deviation, squared = _deviations(everything, seen, refined)
        history.append(used.tobytes())
        fitting = squared < _OUTLIER if judging else used
        # A set seen before ends the search too: two views that exclude each other would alternate.
        if fitting.sum() < MIN_VIEWS or fitting.tobytes() in history:
            break
        used = fitting
    reprojection = np.full(len(views), np.nan)
    reprojection[used] = refined.reprojection_px
    reasons = _reasons(mode, [v.name for v in views], hand, seen, used, deviation, refined)
    residuals = tuple(
        ViewResidual(
            v.name,
            bool(used[i]),
            float(reprojection[i]),
            float(np.degrees(np.linalg.norm(deviation[i, :3]))),
            float(1000 * np.linalg.norm(deviation[i, 3:])),
            float(np.sqrt(squared[i])),
            reasons.get(i, ""),
        )
        for i, v in enumerate(views)
    )
    return Calibration(
        mode,
        x,
        y,
        refined.covariance,
        refined.noise,
        residuals,
        compare_solvers(Views.of(mode, hand[used], kept, board, camera), hand[used], seen[used], x),
        assess(
            mode, hand[used], seen[used], len(views), refined, stated or Noise(), board, camera, requirements
        ),
        _notes(refined, board),
    )


def compare_solvers(
    views: Views, hand: np.ndarray, seen: np.ndarray, reference: np.ndarray
) -> dict[str, Classical]:
    """The five classical solvers on base <- hand and camera <- board poses (n, 4, 4), against a reference X."""
    forward = hand if views.mode == "eye-in-hand" else invert(hand)
    result = {}
    for name, solver in SOLVERS.items():
        try:
            x = solver(*motions(forward, seen))
            if not np.isfinite(x).all():
                raise np.linalg.LinAlgError("the answer is not finite")
        except np.linalg.LinAlgError as error:
            result[name] = Classical(None, failure=str(error))
            continue
        y = board_mounting(views.mode, x, hand, seen)
        pixels = predict(views, np.concatenate([to_vector(x), to_vector(y)])).pixels
        rms = float(np.sqrt(((pixels - views.pixels) ** 2).sum(axis=1).mean()))
        result[name] = Classical(
            x,
            rms,
            float(np.degrees(angle_between(x, reference))),
            float(1000 * np.linalg.norm(x[:3, 3] - reference[:3, 3])),
        )
    return result


def _deviations(views: Views, seen: np.ndarray, refined: Refined) -> tuple[np.ndarray, np.ndarray]:
    """The robot error D_i (n, 6) that each view alone asks for, and its squared Mahalanobis distance (n,)."""
    x, y, chain = refined.camera_mounting, refined.board_mounting, views.chain
    needed = x @ seen @ invert(y)
    needed = needed @ invert(chain) if views.mode == "eye-in-hand" else invert(chain) @ needed
    deviation = to_vector(needed)
    prediction = predict(views, np.concatenate([to_vector(x), to_vector(y)]), deviation)
    mounting = refined.information
    # Uncertain mountings excuse deviations; in undetermined directions they excuse all.
    covariance = np.linalg.pinv(mounting, rcond=1e-13, hermitian=True)
    squared = np.empty(len(deviation))
    for i in range(len(deviation)):
        rows = views.view == i
        e = prediction.by_error[rows].reshape(-1, 6) / refined.noise.pixel
        by_mounting = np.linalg.lstsq(e, prediction.by_mounting[rows].reshape(-1, 12), rcond=None)[0]
        by_mounting /= refined.noise.pixel
        total = np.diag(refined.noise.robot_variance) + np.linalg.inv(e.T @ e)
        total += by_mounting @ covariance @ by_mounting.T
        squared[i] = deviation[i] @ np.linalg.solve(total, deviation[i])
    return deviation, squared


def _reasons(
    mode: Mode,
    names: Sequence[str],
    hand: np.ndarray,
    seen: np.ndarray,
    used: np.ndarray,
    deviation: np.ndarray,
    refined: Refined,
) -> dict[int, str]:
    """Why each rejected view was rejected: alone, or together with others that see the board elsewhere."""
    forward = hand if mode == "eye-in-hand" else invert(hand)
    places = forward @ refined.camera_mounting @ seen
    rejected = np.flatnonzero(~used)
    reasons = {}
    for i in rejected:
        apart = np.linalg.norm(places[rejected, :3, 3] - places[i, :3, 3], axis=1)
        turned = angle_between(places[rejected], places[i][None])
        moved = float(np.linalg.norm(places[i, :3, 3] - refined.board_mounting[:3, 3]))
        turn = float(angle_between(places[i], refined.board_mounting))
        near = apart < np.clip(_SAME_PLACE * moved, *_SAME_PLACE_M)
        others = rejected[near & (turned < np.clip(_SAME_PLACE * turn, *_SAME_PLACE_RAD))]
        if len(others) > 1:
            group = ", ".join(names[j] for j in others)
            place = "on the table" if mode == "eye-in-hand" else "in the hand"
            reasons[int(i)] = (
                f"views {group} agree that the board sat elsewhere {place}, {1000 * moved:.1f} mm and "
                f"{np.degrees(turn):.2f} deg away: was it moved? Fix it and take them again"
            )
        else:
            reasons[int(i)] = (
                f"robot pose and picture disagree by {1000 * np.linalg.norm(deviation[i, 3:]):.1f} mm, "
                f"{np.degrees(np.linalg.norm(deviation[i, :3])):.2f} deg: another view's pose, a robot still in "
                "motion, or the board moved? Take it again"
            )
    return reasons


def _notes(refined: Refined, board: Board) -> tuple[str, ...]:
    notes = []
    if abs(refined.scale) > 4 * refined.scale_sigma and abs(refined.scale) > 0.003:
        print_mm = 1000 * board.square_m * (1 + refined.scale)
        notes.append(
            f"the robot's motion says that a square is {print_mm:.2f} mm (+- "
            f"{1000 * board.square_m * refined.scale_sigma:.2f}), stated are {1000 * board.square_m:g}: measure the "
            "print and give --board.square-m; if it is right, check the intrinsics and the robot's unit"
        )
    return tuple(notes)
