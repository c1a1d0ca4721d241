"""Whether the poses of a hand-eye calibration suffice, and which one to add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.calibration.board import Board
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.refine import Noise, Refined, covariance_of_camera, one_view_information
from zerograsp_edge.calibration.transforms import (
    invert,
    quaternion,
    rotation_matrix,
    rotation_vector,
    transform,
)
from zerograsp_edge.runtime.hand_eye import Mode

_TILT_RAD = float(np.radians(30))
_USABLE_DEG, _USABLE_MM = 1.0, 20.0
_DIRECTIONS = (
    "right", "lower right", "bottom", "lower left", "left", "upper left", "top", "upper right",
)  # fmt: skip


@dataclass(frozen=True)
class Requirements:
    """What a set of poses must have. Rotations are those of the camera relative to the board, between views.

    Attributes:
        views: that agree with each other.
        agreeing: their share of all views.
        rotation_deg: the largest rotation between two views.
        second_axis_deg: RMS rotation between views about the second axis of rotation; near 0 all rotate about
            one axis, and the translation along it is not determined (Tsai, Lenz 1989).
        spread_m: RMS distance of the hand's positions from their mean. Advice only: rotations alone determine
            the result, but do not average the robot's own errors over its workspace.
        condition: longest over shortest axis of the result's error ellipsoid, rotations times board distance.
        sigma_rotation_deg, sigma_translation_mm: expected standard deviation of the result's worst axis.
        scale_percent: by how much the board's size may differ, beyond doubt (3 sigma), from what the robot's
            motion says; the camera's distance is wrong by as much.
        robot_ratio: the robot's pose errors, as found, over its stated repeatability. More means that views
            contradict each other without a majority to say which are right, or that the mode is wrong.
    """

    views: int = 8
    agreeing: float = 0.6
    rotation_deg: float = 30.0
    second_axis_deg: float = 8.0
    spread_m: float = 0.03
    condition: float = 40.0
    sigma_rotation_deg: float = 0.05
    sigma_translation_mm: float = 0.5
    scale_percent: float = 0.3
    robot_ratio: float = 10.0


@dataclass(frozen=True)
class Criterion:
    """One requirement with what was found; `binding` ones decide the verdict, the others are advice."""

    name: str
    value: float
    needed: float
    unit: str
    at_least: bool
    binding: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.needed if self.at_least else self.value <= self.needed

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        return f"{self.name}: {self.value:.3g} {self.unit}, needed {bound} {self.needed:g}".replace(" ,", ",")


@dataclass(frozen=True, eq=False)
class NextPose:
    """A further pose, chosen for what it adds.

    Attributes:
        instruction: what to do, in words.
        hand: (4, 4) base <- hand, m; None when the calibration is too uncertain to say.
    """

    instruction: str
    hand: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Assessment:
    """The verdict on a set of poses."""

    criteria: tuple[Criterion, ...]
    next_pose: NextPose

    @property
    def sufficient(self) -> bool:
        return all(c.met for c in self.criteria if c.binding)

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What is not met, in words; advice-only criteria last."""
        unmet = sorted((c for c in self.criteria if not c.met), key=lambda c: not c.binding)
        return tuple(str(c) + ("" if c.binding else " (advice)") for c in unmet)


def rotation_diversity(board: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Rotations between all pairs of views.

    Args:
        board: (n, 4, 4) camera <- board.

    Returns:
        The largest angle (rad); the RMS rotations (3,) about the principal axes (rad, descending); these axes
        as columns (3, 3), in the camera's frame.
    """
    i, j = np.triu_indices(len(board), 1)
    vectors = rotation_vector(board[i, :3, :3] @ np.swapaxes(board[j, :3, :3], 1, 2))
    if len(vectors) == 0:
        return 0.0, np.zeros(3), np.eye(3)
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    return (
        float(np.linalg.norm(vectors, axis=1).max()),
        np.sqrt(np.maximum(values[::-1], 0)),
        axes[:, ::-1],
    )


def sigmas(covariance: np.ndarray) -> tuple[float, float]:
    """Standard deviations of the worst axes: rotation (deg) and translation (mm), of a (6, 6) covariance."""
    if not np.isfinite(covariance).all():
        return float("inf"), float("inf")
    rotation, translation = (np.linalg.eigvalsh(covariance[s, s])[-1] for s in (slice(0, 3), slice(3, 6)))
    return float(np.degrees(np.sqrt(rotation))), float(1000 * np.sqrt(translation))


def condition_number(covariance: np.ndarray, distance: float) -> float:
    """Longest over shortest axis of the error ellipsoid, with rotations as displacements at `distance` (m)."""
    if not np.isfinite(covariance).all():
        return float("inf")
    scale = np.repeat([distance, 1.0], 3)
    values = np.linalg.eigvalsh(covariance * np.outer(scale, scale))
    return float(np.sqrt(values[-1] / values[0])) if values[0] > 0 else float("inf")


def assess(
    mode: Mode,
    hand: np.ndarray,
    board_poses: np.ndarray,
    offered: int,
    refined: Refined | None,
    stated: Noise,
    board: Board,
    camera: CameraModel,
    requirements: Requirements | None = None,
) -> Assessment:
    """Compare a set of poses with the requirements.

    Args:
        hand: (n, 4, 4) base <- hand of the views used.
        board_poses: (n, 4, 4) camera <- board.
        offered: number of views before rejection.
        refined: their calibration; None when there are too few for one.
        stated: the robot's repeatability as its data sheet has it.
    """
    need = requirements or Requirements()
    largest, axes_rad, _ = rotation_diversity(board_poses)
    spread = float(np.sqrt(((hand[:, :3, 3] - hand[:, :3, 3].mean(axis=0)) ** 2).sum(axis=1).mean()))
    covariance = np.full((6, 6), np.inf) if refined is None else refined.covariance
    distance = float(np.median(np.linalg.norm(board_poses[:, :3, 3], axis=1)))
    rotation, translation = sigmas(covariance)
    criteria = (
        Criterion("poses that agree", len(hand), need.views, "", True),
        Criterion("share of poses that agree", len(hand) / max(offered, 1), need.agreeing, "", True),
        Criterion("rotation amplitude", float(np.degrees(largest)), need.rotation_deg, "deg", True),
        Criterion(
            "rotation about a second axis", float(np.degrees(axes_rad[1])), need.second_axis_deg, "deg", True
        ),
        Criterion("translation spread", 1000 * spread, 1000 * need.spread_m, "mm", True, binding=False),
        Criterion("condition number", condition_number(covariance, distance), need.condition, "", False),
        Criterion("expected error, rotation (1 sigma)", rotation, need.sigma_rotation_deg, "deg", False),
        Criterion(
            "expected error, translation (1 sigma)", translation, need.sigma_translation_mm, "mm", False
        ),
        Criterion(
            "robot's pose error over its repeatability",
            _robot_ratio(refined, stated),
            need.robot_ratio,
            "x",
            False,
        ),
        Criterion(
            "board size against the robot's motion", _scale_error(refined), need.scale_percent, "%", False
        ),
    )
    return Assessment(criteria, best_next_pose(mode, board_poses, refined, board, camera))


def best_next_pose(
    mode: Mode, board_poses: np.ndarray, refined: Refined | None, board: Board, camera: CameraModel
) -> NextPose:
    """The candidate that shrinks the result's error most or, before there is one, adds most rotation."""
    candidates = _candidates(board_poses, board, camera)
    if refined is None or not _is_usable(refined):
        gains = [_added_rotation(board_poses, pose) for pose, _ in candidates]
        return NextPose(_instruction(mode, candidates[int(np.argmax(gains))][1]), None)
    distance = float(np.median(np.linalg.norm(board_poses[:, :3, 3], axis=1)))
    weight = np.repeat([distance**2, 1.0], 3)
    hands, errors = [], []
    for pose, _ in candidates:
        chain = refined.camera_mounting @ pose @ invert(refined.board_mounting)
        hands.append(chain if mode == "eye-to-hand" else invert(chain))
        added = one_view_information(mode, hands[-1], board, camera, refined)
        errors.append(float(weight @ np.diag(covariance_of_camera(refined.information + added))))
    best = int(np.argmin(errors))
    x, y, z = hands[best][:3, 3]
    qw, qx, qy, qz = quaternion(hands[best][:3, :3])
    where = (
        f" (hand at x {x:.3f}, y {y:.3f}, z {z:.3f} m, quaternion xyzw "
        f"{qx:.3f} {qy:.3f} {qz:.3f} {qw:.3f}; check that the robot can go there)"
    )
    return NextPose(_instruction(mode, candidates[best][1]) + where, hands[best])


def _robot_ratio(refined: Refined | None, stated: Noise) -> float:
    """The larger of rotation's and translation's; 0 where nothing is known about it."""
    if refined is None:
        return 0.0
    noise = refined.noise
    return max(noise.rotation / stated.rotation, noise.translation / stated.translation)


def _scale_error(refined: Refined | None) -> float:
    """Percent by which the board's size is wrong for certain; 0 where nothing is known about it."""
    if refined is None or not np.isfinite(refined.scale_sigma):
        return 0.0
    return 100 * max(abs(refined.scale) - 3 * refined.scale_sigma, 0.0)


def _is_usable(refined: Refined) -> bool:
    """Whether a calibration is good enough to send a hand somewhere with the board in the picture."""
    rotation, translation = sigmas(refined.covariance)
    return rotation < _USABLE_DEG and translation < _USABLE_MM


@dataclass(frozen=True)
class _Candidate:
    direction: int
    roll_deg: float
    distance_m: float


def _candidates(
    board_poses: np.ndarray, board: Board, camera: CameraModel
) -> list[tuple[np.ndarray, _Candidate]]:
    """Views of the centred board tilted to eight sides, rolled, near and far, around how it is usually seen."""
    upright = _frontal(board_poses)
    usual = float(np.median((board_poses @ np.append(board.centre, 1))[:, 2]))
    found: list[tuple[np.ndarray, _Candidate]] = []
    for factor in (0.85, 1.0, 1.25, 1.6, 2.2):
        if factor > 1.25 and found:  # only when the board does not fit nearer
            break
        for direction in range(8):
            angle = direction * np.pi / 4
            # The board's side at (cos, sin) in the picture comes nearer when it turns about (-sin, cos).
            tilt = rotation_matrix(_TILT_RAD * np.array([-np.sin(angle), np.cos(angle), 0.0]))
            for roll in (-45.0, 0.0, 45.0):
                rotation = tilt @ rotation_matrix(np.array([0, 0, np.radians(roll)])) @ upright
                centre = np.array([0, 0, factor * usual])
                pose = transform(rotation, centre - rotation @ board.centre)
                if _in_picture(pose, board, camera):
                    found.append((pose, _Candidate(direction, roll, factor * usual)))
    if not found:  # a narrow camera or a large board: the nearest thing is still advice
        found.append((board_poses[0], _Candidate(0, 0.0, 2.5 * usual)))
    return found


def _frontal(board_poses: np.ndarray) -> np.ndarray:
    """(3, 3) a view's rotation with its tilt removed: the board parallel to the picture, rolled as usual."""
    rotation = board_poses[0, :3, :3]
    normal = rotation[:, 2]
    axis = np.cross(normal, [0, 0, 1.0])
    sine = float(np.linalg.norm(axis))
    angle = float(np.arctan2(sine, normal[2]))
    return rotation_matrix(axis / sine * angle) @ rotation if sine > 1e-9 else rotation


def _in_picture(pose: np.ndarray, board: Board, camera: CameraModel) -> bool:
    """Whether all corners lie inside the picture; distortion is left out, a margin of 4 % makes up for it."""
    points = board.corners @ pose[:3, :3].T + pose[:3, 3]
    if camera.size is None:
        return bool((points[:, 2] > 0).all())
    pixels = points @ camera.intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    size = np.array(camera.size)
    return bool((points[:, 2] > 0).all() and (pixels > 0.04 * size).all() and (pixels < 0.96 * size).all())


def _added_rotation(board_poses: np.ndarray, pose: np.ndarray) -> float:
    """Product of the RMS rotations about the three principal axes with a further view."""
    _, axes, _ = rotation_diversity(np.concatenate([board_poses, pose[None]]))
    return float(np.prod(axes + 1e-3))


def _instruction(mode: Mode, candidate: _Candidate) -> str:
    side, tilt = _DIRECTIONS[candidate.direction], round(np.degrees(_TILT_RAD))
    roll = (
        ""
        if candidate.roll_deg == 0
        else f", roll it by {abs(candidate.roll_deg):.0f} deg about the view axis"
    )
    if mode == "eye-in-hand":
        return (
            f"swing the camera {tilt} deg around the board towards the {side} of the picture{roll}, "
            f"{candidate.distance_m:.2f} m from the board"
        )
    return (
        f"tilt the board by {tilt} deg so that its {side} in the picture comes nearer to the camera{roll}, "
        f"{candidate.distance_m:.2f} m from the camera"
    )
