"""The check of a camera: are intrinsics and depth as the factory says, is a refinement real, and do the views suffice.

Every question is asked of views that were left out of the fit: each view in turn is judged by a fit to the others. A
refinement counts only when it explains those views better, differs from the factory's values by more than its
uncertainty, and makes a difference that matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board, Detection, board_pose
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.depth_fit import (
    IDENTITY,
    ErrorMap,
    PlaneSamples,
    error_map,
    fit_depth,
    plane_samples,
    tile_errors,
)
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.intrinsics_fit import IntrinsicsFit, fit_intrinsics
from zerograsp_edge.calibration.pose_set import Criterion
from zerograsp_edge.runtime.camera.correction import DepthCorrection, Pinhole, Verdict

# Fewer views leave nothing to leave out.
MIN_VIEWS = 4
# What a set of views must have.
_VIEWS, _TILTED, _TILT_DEG, _COVERED, _NEAR_FAR = 8, 2, 15.0, 0.7, 1.5
# Rows and columns of the picture that corners must cover.
_ROWS, _COLUMNS = 3, 4
_SIGMA_FOCAL, _SIGMA_CENTRE_PX, _SIGMA_SCALE = 0.003, 2.0, 0.005
# A view is rejected when it is off by this many times as much as the median view, and by this much at least.
_BAD_RATIO, _BAD_CORNERS_PX, _BAD_DEPTH, _LEAST_VALID = 4.0, 0.4, 0.005, 0.5
# A change is real beyond this chi-square (4 degrees of freedom, 1 in 1000) and this many standard errors of the gain.
_CHI_SQUARE, _GAIN_SIGMAS = 18.5, 2.0
# It matters from here on: pixels anywhere in the picture, share of the depth.
_MATTERS_PX, _MATTERS_DEPTH = 0.3, 0.001
# Beyond this no camera is: the board's size, or the hardware.
_LARGEST_SCALE, _LARGEST_FOCAL, _LARGEST_CENTRE = 0.025, 0.03, 0.04
_LARGEST_CORNERS_PX, _LARGEST_DISPARITY_PX, _LARGEST_BUMP = 0.5, 0.35, 0.01


@dataclass(frozen=True, eq=False)
class BoardView:
    """A board seen in one frame: its corners, and depth (H, W) float32, mm, registered to the picture."""

    name: str
    found: Detection
    depth: np.ndarray


@dataclass(frozen=True)
class ViewVerdict:
    """What became of a view: RMS of its corners with the factory's intrinsics, px; mean error of its depth, percent;
    `reason` for leaving it out, empty where it was used."""

    name: str
    distance_m: float
    tilt_deg: float
    corners_px: float
    depth_percent: float
    valid: float
    reason: str = ""

    @property
    def used(self) -> bool:
        return not self.reason


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Errors in views that were left out of the fit, before and after the refinement, RMS over views.

    Attributes:
        before, after: px of corners, or percent of the depth.
        gain: mean decrease over views; sigma: its standard error.
        chi_square: of the change against its uncertainty, 4 degrees of freedom.
        effect: the largest change it makes: px, or percent of the depth.
        real: whether it is explained by more than chance, and matters.
    """

    before: float
    after: float
    gain: float
    sigma: float
    chi_square: float
    effect: float
    real: bool


@dataclass(frozen=True, eq=False)
class CameraCheck:
    """What was found.

    Attributes:
        factory, refined: intrinsics; `refined` is the estimate, whether it is applied or not.
        sigma_intrinsics: (4,) px, standard deviation of fx, fy, cx, cy.
        correction: (4,) scale, offset, tilt_x, tilt_y: the estimate; sigma_correction: its standard deviation.
        distortion: (2,) k1, k2 that would be left; distortion_gain: by which they improve views that were left out.
        corners, depth: whether intrinsics and depth correction are real.
        raw, corrected: maps of the depth error before and after, both against the best estimate of the planes.
        intrinsics, depth_correction: what the file holds: estimates that are real, else the factory's values.
        views: all of them.
        criteria: requirements on the set of views; missing: what to add, in words.
        problems: what no calibration repairs.
    """

    board: Board
    size: tuple[int, int]
    factory: Pinhole
    refined: Pinhole
    sigma_intrinsics: np.ndarray
    correction: np.ndarray
    sigma_correction: np.ndarray
    distortion: np.ndarray
    distortion_gain: HeldOut
    corners: HeldOut
    depth: HeldOut
    raw: ErrorMap
    corrected: ErrorMap
    intrinsics: Pinhole
    depth_correction: DepthCorrection
    views: list[ViewVerdict]
    criteria: list[Criterion]
    missing: list[str]
    problems: list[str]

    @property
    def verdict(self) -> Verdict:
        """Problems first, then missing views: a correction from too few is not offered."""
        if self.problems:
            return "problem"
        if self.missing:
            return "more views"
        return "apply" if self.corners.real or self.depth.real else "fine"


def check_camera(
    board: Board,
    views: Sequence[BoardView],
    model: CameraModel,
    *,
    square_sigma_m: float = 5e-5,
    baseline_m: float = 0.05,
) -> CameraCheck:
    """Check a camera against pictures of a board.

    Args:
        model: the factory's intrinsics of rectified pictures, with their size.
        square_sigma_m: how well the board's square was measured: depth is known no better.
        baseline_m: of the stereo camera, for depth noise in pixels.

    Raises:
        CalibrationError: fewer than MIN_VIEWS views agree.
    """
    if model.size is None or model.distortion.any():
        raise CalibrationError(
            "expected rectified pictures of a known size; undistort them, or give the intrinsics of rectified ones"
        )
    size, factory = model.size, Pinhole.of(model.intrinsics)
    reasons: dict[int, str] = {}
    kept = _without_bad_corners(board, views, factory, reasons)
    fit = fit_intrinsics(board, [views[i].found for i in kept], factory)
    without = [_fit_without(board, views, kept, i, factory) for i in kept]
    covariance = _wider(fit.covariance, np.array([_values(f.camera) for f in without]), _values(fit.camera))
    corners = _judge_corners(board, views, kept, factory, fit, without, covariance, size)
    bent, bent_gain = _judge_distortion(board, views, kept, factory, without)
    # Planes: by the refined intrinsics where they are real.
    camera = fit.camera if corners.real else factory
    samples: dict[int, PlaneSamples] = {}
    for i, view in enumerate(views):
        used = CameraModel(camera.matrix)
        pose, _ = board_pose(board.corners[view.found.ids], view.found.pixels, used)
        samples[i] = plane_samples(board, view.depth, camera, pose)
    deep = _without_bad_depth(views, samples, kept, reasons)
    correction = fit_depth([samples[i] for i in deep])
    left_out = {i: fit_depth([samples[j] for j in deep if j != i]) for i in deep}
    depth_covariance = _depth_covariance(
        samples, deep, correction, left_out, covariance, camera, square_sigma_m / board.square_m
    )
    depth = _judge_depth(samples, deep, correction, left_out, depth_covariance)
    used_samples = [samples[i] for i in deep]
    sigma, sigma_depth = np.sqrt(np.diag(covariance)), np.sqrt(np.diag(depth_covariance))
    raw = error_map(used_samples, camera, IDENTITY, size, baseline_m)
    corrected = error_map(used_samples, camera, correction, size, baseline_m) if depth.real else raw
    verdicts = [
        _view_verdict(board, view, samples[i], i, factory, reasons.get(i, "")) for i, view in enumerate(views)
    ]
    criteria, missing = _assess(board, views, deep, size, factory, sigma, sigma_depth)
    # Views that leave values open say nothing about how large they are.
    enough = all(c.met for c in criteria)
    problems = _large_changes(board, factory, fit, correction, size, corners) if enough else []
    problems += _bad_hardware(fit, corrected, depth, [samples[i] for i in kept], bent, bent_gain)
    applied = DepthCorrection()
    if depth.real and not problems:
        applied = DepthCorrection(*map(float, correction))
    return CameraCheck(
        board, size, factory, fit.camera, sigma, correction, sigma_depth, bent, bent_gain, corners, depth,
        raw, corrected, camera, applied, verdicts, criteria, missing, problems,
    )  # fmt: skip


def _values(camera: Pinhole) -> np.ndarray:
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy])


def _without_bad_corners(
    board: Board, views: Sequence[BoardView], factory: Pinhole, reasons: dict[int, str]
) -> list[int]:
    """Views whose corners agree with one set of intrinsics; the worst goes first, the others are judged again."""
    kept = list(range(len(views)))
    _check_count(kept, len(views))
    while True:
        rms = fit_intrinsics(board, [views[i].found for i in kept], factory).rms_px
        worst = int(np.argmax(rms))
        if rms[worst] <= max(_BAD_CORNERS_PX, _BAD_RATIO * float(np.median(rms))):
            return kept
        reasons[kept[worst]] = (
            f"corners are off by {rms[worst]:.2f} px where the median view's are by {np.median(rms):.2f}: moved, "
            "blurred, or another board"
        )
        del kept[worst]
        _check_count(kept, len(views))


def _without_bad_depth(
    views: Sequence[BoardView], samples: dict[int, PlaneSamples], kept: list[int], reasons: dict[int, str]
) -> list[int]:
    """Views whose depth agrees with one correction."""
    deep = []
    for i in kept:
        if samples[i].valid < _LEAST_VALID or not len(samples[i].tiles):
            reasons[i] = f"only {samples[i].valid:.0%} of the board has depth: too near, glossy, or covered"
        else:
            deep.append(i)
    while True:
        _check_count(deep, len(views))
        correction = fit_depth([samples[i] for i in deep])
        errors = np.array([np.sqrt(np.mean(tile_errors(samples[i], correction) ** 2)) for i in deep])
        worst = int(np.argmax(errors))
        if errors[worst] <= max(_BAD_DEPTH, _BAD_RATIO * float(np.median(errors))):
            return deep
        reasons[deep[worst]] = (
            f"depth is off the board by {errors[worst]:.1%} where the median view's is by {np.median(errors):.1%}: "
            "something before the board, or depth and colour of different moments"
        )
        del deep[worst]


def _check_count(kept: list[int], count: int) -> None:
    if len(kept) < MIN_VIEWS:
        raise CalibrationError(
            f"{len(kept)} of {count} views of the board agree with each other, at least {MIN_VIEWS} are needed and "
            f"{_VIEWS} advised; hold the board still, whole and in focus, away from other things"
        )


def _fit_without(
    board: Board, views: Sequence[BoardView], kept: list[int], out: int, factory: Pinhole, bent: bool = False
) -> IntrinsicsFit:
    return fit_intrinsics(board, [views[i].found for i in kept if i != out], factory, distortion=bent)


def _wider(covariance: np.ndarray, without: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The formal covariance, or the jackknife's over views where that says more: noise is not independent.

    Scaled by one factor, so that it stays a covariance.
    """
    n = len(without)
    change = without - without.mean(axis=0)
    jackknife = (n - 1) / n * change.T @ change
    ratio = np.diag(jackknife) / np.diag(covariance)
    return covariance * max(1.0, float(np.median(ratio)))


def _rms(board: Board, view: BoardView, camera: Pinhole, distortion: np.ndarray | None = None) -> float:
    """RMS distance, px, of a view's corners to the board at the best pose for these intrinsics."""
    bent = np.zeros(0) if distortion is None else np.append(distortion, [0.0, 0.0])
    return board_pose(board.corners[view.found.ids], view.found.pixels, CameraModel(camera.matrix, bent))[1]


def _held_out(
    before: np.ndarray, after: np.ndarray, chi_square: float, effect: float, matters: float, unit: float = 1.0
) -> HeldOut:
    gain = before - after
    sigma = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    real = bool(gain.mean() > _GAIN_SIGMAS * sigma and chi_square > _CHI_SQUARE and effect > matters)
    return HeldOut(
        unit * float(np.sqrt(np.mean(before**2))), unit * float(np.sqrt(np.mean(after**2))),
        unit * float(gain.mean()), unit * sigma, chi_square, unit * effect, real,
    )  # fmt: skip


def _judge_corners(
    board: Board, views: Sequence[BoardView], kept: list[int], factory: Pinhole, fit: IntrinsicsFit,
    without: list[IntrinsicsFit], covariance: np.ndarray, size: tuple[int, int],
) -> HeldOut:  # fmt: skip
    before = np.array([_rms(board, views[i], factory) for i in kept])
    after = np.array([_rms(board, views[i], f.camera) for i, f in zip(kept, without, strict=True)])
    change = _values(fit.camera) - _values(factory)
    chi_square = float(change @ np.linalg.solve(covariance, change))
    # Where a ray meets the picture with one set and with the other.
    edges = np.array([[0.0, size[0]], [0.0, size[1]]])
    moved = [
        np.abs((edges[axis] - change_c - start_c) * f / start_f + start_c - edges[axis]).max()
        for axis, (f, start_f, change_c, start_c) in enumerate((
            (factory.fx, fit.camera.fx, change[2], factory.cx), (factory.fy, fit.camera.fy, change[3], factory.cy),
        ))
    ]  # fmt: skip
    return _held_out(before, after, chi_square, float(max(moved)), _MATTERS_PX)


def _judge_distortion(
    board: Board, views: Sequence[BoardView], kept: list[int], factory: Pinhole, without: list[IntrinsicsFit]
) -> tuple[np.ndarray, HeldOut]:
    """k1, k2 that rectification has left, and whether they explain views left out better than a pinhole does."""
    found = fit_intrinsics(board, [views[i].found for i in kept], factory, distortion=True)
    bent = [_fit_without(board, views, kept, i, factory, True) for i in kept]
    before = np.array([_rms(board, views[i], f.camera) for i, f in zip(kept, without, strict=True)])
    after = np.array([_rms(board, views[i], f.camera, f.distortion) for i, f in zip(kept, bent, strict=True)])
    k = np.array([f.distortion for f in bent])
    sigma = np.sqrt((len(k) - 1) * k.var(axis=0))
    chi_square = float(np.sum((found.distortion / np.maximum(sigma, 1e-9)) ** 2))
    # At the picture's corners, in pixels.
    radius = float(np.hypot(factory.cx / factory.fx, factory.cy / factory.fy))
    k1, k2 = found.distortion
    effect = factory.fx * abs(k1 * radius**3 + k2 * radius**5)
    return found.distortion, _held_out(before, after, chi_square, effect, 1.0)


def _depth_covariance(
    samples: dict[int, PlaneSamples], deep: list[int], correction: np.ndarray, without: dict[int, np.ndarray],
    intrinsics: np.ndarray, camera: Pinhole, square: float,
) -> np.ndarray:  # fmt: skip
    """(4, 4): the jackknife's over views, and what focal length and the board's size leave open in the scale."""
    change = np.array([without[i] for i in deep])
    change = change - change.mean(axis=0)
    n = len(deep)
    covariance = (n - 1) / n * change.T @ change
    # Depth noise within views, should the views agree by chance.
    x, y, measured, plane = np.concatenate([samples[i].tiles for i in deep]).T
    design = np.stack([measured, np.ones_like(x), x, y], axis=1)
    residual = plane - design @ correction
    covariance += np.linalg.pinv(design.T @ design) * float(np.mean(residual**2))
    focal = 0.25 * (intrinsics[0, 0] + intrinsics[1, 1] + 2 * intrinsics[0, 1]) / camera.fx**2
    covariance[0, 0] += focal + square**2
    return covariance


def _judge_depth(
    samples: dict[int, PlaneSamples], deep: list[int], correction: np.ndarray, without: dict[int, np.ndarray],
    covariance: np.ndarray,
) -> HeldOut:  # fmt: skip
    def rms(i: int, c: np.ndarray) -> float:
        return float(np.sqrt(np.mean(tile_errors(samples[i], c) ** 2)))

    before = np.array([rms(i, IDENTITY) for i in deep])
    after = np.array([rms(i, without[i]) for i in deep])
    change = correction - IDENTITY
    chi_square = float(change @ np.linalg.solve(covariance, change))
    moved = [tile_errors(samples[i], correction) - tile_errors(samples[i], IDENTITY) for i in deep]
    effect = float(np.percentile(np.abs(np.concatenate(moved)), 95))
    return _held_out(before, after, chi_square, effect, _MATTERS_DEPTH, 100.0)


def _view_verdict(
    board: Board, view: BoardView, samples: PlaneSamples, number: int, factory: Pinhole, reason: str
) -> ViewVerdict:
    pose = view.found.camera_from_board
    errors = tile_errors(samples, IDENTITY)
    return ViewVerdict(
        view.name,
        float((pose @ np.append(board.centre, 1))[2]),
        float(np.degrees(np.arccos(np.clip(abs(pose[2, 2]), 0, 1)))),
        _rms(board, view, factory),
        100 * float(np.mean(errors)) if len(errors) else float("nan"),
        samples.valid,
        reason,
    )


def _assess(
    board: Board, views: Sequence[BoardView], used: list[int], size: tuple[int, int], camera: Pinhole,
    sigma: np.ndarray, sigma_depth: np.ndarray,
) -> tuple[list[Criterion], list[str]]:  # fmt: skip
    """Requirements, and what to show to meet them."""
    count = [views[i].found for i in used]
    missing: list[str] = []
    covered = np.zeros((_ROWS, _COLUMNS), bool)
    for found in count:
        cells = np.int64(found.pixels * [_COLUMNS, _ROWS] / size).clip(0, [_COLUMNS - 1, _ROWS - 1])
        covered[cells[:, 1], cells[:, 0]] = True
    tilt = np.degrees([_tilt(f.camera_from_board) for f in count])
    about = {axis: int((np.abs(tilt[:, i]) >= _TILT_DEG).sum()) for i, axis in enumerate(("left-right", "up-down"))}
    distance = np.array([(f.camera_from_board @ np.append(board.centre, 1))[2] for f in count])
    ratio = float(distance.max() / distance.min())
    focal = float(max(sigma[0] / camera.fx, sigma[1] / camera.fy))
    criteria = [
        Criterion("views that agree", len(count), _VIEWS, "", True),
        *(Criterion(f"views tilted {axis} by {_TILT_DEG:g} deg", n, _TILTED, "", True) for axis, n in about.items()),
        Criterion("picture covered by corners", 100 * float(covered.mean()), 100 * _COVERED, "%", True),
        Criterion("farthest over nearest view", ratio, _NEAR_FAR, "", True),
        Criterion("1 sigma of the focal length", 100 * focal, 100 * _SIGMA_FOCAL, "%", False),
        Criterion("1 sigma of the principal point", float(sigma[2:].max()), _SIGMA_CENTRE_PX, "px", False),
        Criterion("1 sigma of the depth scale", 100 * float(sigma_depth[0]), 100 * _SIGMA_SCALE, "%", False),
    ]
    for axis, n in about.items():
        if n < _TILTED:
            missing.append(f"tilt the board {axis} by 20 to 40 degrees: {_TILTED - n} more view(s)")
    if covered.mean() < _COVERED:
        missing.append("show the board at the " + ", ".join(_uncovered(covered)) + " of the picture")
    if ratio < _NEAR_FAR:
        near, far = float(distance.min()), float(distance.max())
        missing.append(
            f"show the board nearer or farther: all views are {near:.2f} to {far:.2f} m away, for example also at "
            f"{far * _NEAR_FAR:.2f} m"
        )
    if len(count) < _VIEWS:
        missing.append(f"{_VIEWS - len(count)} more view(s), different from those there are")
    if not missing and (unmet := [c for c in criteria if not c.met]):
        missing.append("more views, tilted and all over the picture, are needed: " + "; ".join(map(str, unmet)))
    return criteria, missing


def _tilt(pose: np.ndarray) -> tuple[float, float]:
    """Angles, rad, by which the board's normal leaves the optical axis to the side and upwards."""
    x, y, z = pose[:3, 2] * np.sign(pose[2, 2])
    return float(np.arctan2(x, z)), float(np.arctan2(y, z))


def _uncovered(covered: np.ndarray) -> list[str]:
    names = []
    for row, vertical in enumerate(("top", "middle", "bottom")):
        for columns, horizontal in ((slice(0, 2), "left"), (slice(2, 4), "right")):
            if not covered[row, columns].all():
                names.append(f"{vertical} {horizontal}")
    return names


def _large_changes(
    board: Board, factory: Pinhole, fit: IntrinsicsFit, correction: np.ndarray, size: tuple[int, int], corners: HeldOut
) -> list[str]:
    """Changes larger than a camera in order can need."""
    problems = []
    # Depth in metres does not know the board: a factor between them is as likely the board's.
    if abs(correction[0] - 1) > _LARGEST_SCALE:
        square = 1000 * board.square_m * correction[0]
        problems.append(
            f"board and depth differ in scale by {correction[0] - 1:+.1%}: by depth a square is {square:.2f} mm, "
            f"given as {1000 * board.square_m:.2f} mm; measure the print (--board.square-m), and if it is right, "
            "calibrate the camera's depth with its maker's tool"
        )
    focal = [fit.camera.fx / factory.fx - 1, fit.camera.fy / factory.fy - 1]
    centre = [(fit.camera.cx - factory.cx) / size[0], (fit.camera.cy - factory.cy) / size[1]]
    if corners.real and max(map(abs, focal)) > _LARGEST_FOCAL:
        problems.append(
            f"focal lengths differ from the factory's by {focal[0]:+.1%} and {focal[1]:+.1%}: intrinsics of another "
            "resolution or camera, a board that is not flat, or print scaled in one direction"
        )
    if corners.real and max(map(abs, centre)) > _LARGEST_CENTRE:
        problems.append(
            f"the principal point differs from the factory's by {fit.camera.cx - factory.cx:+.1f}, "
            f"{fit.camera.cy - factory.cy:+.1f} px: intrinsics of a cropped picture or another camera, or a lens that "
            "has moved"
        )
    return problems


def _bad_hardware(
    fit: IntrinsicsFit, corrected: ErrorMap, depth: HeldOut, samples: list[PlaneSamples], bent: np.ndarray,
    bent_gain: HeldOut,
) -> list[str]:  # fmt: skip
    """What neither intrinsics nor the four numbers of the correction repair."""
    problems = []
    corners = float(np.median(fit.rms_px))
    if corners > _LARGEST_CORNERS_PX:
        problems.append(
            f"corners fit only to {corners:.2f} px (expected below {_LARGEST_CORNERS_PX:g}): focus, motion, a board "
            "that is not flat, or pictures that are not rectified"
        )
    if bent_gain.real:
        problems.append(
            f"pictures are bent by {bent_gain.effect:.1f} px at their corners (k1 {bent[0]:+.4f}, k2 {bent[1]:+.4f}): "
            "they are not rectified, or with wrong coefficients"
        )
    valid = float(np.median([s.valid for s in samples]))
    if valid < 0.8:
        problems.append(f"only {valid:.0%} of the board has depth: light, distance, emitter, or a dirty lens")
    noise = float(np.nanmax(corrected.bin_disparity_px))
    if noise > _LARGEST_DISPARITY_PX:
        problems.append(
            f"depth noise is {noise:.2f} px of disparity (expected below {_LARGEST_DISPARITY_PX:g}): texture, light, "
            "emitter, or stereo calibration lost"
        )
    middle = (corrected.edges[:-1] + corrected.edges[1:])[:, None, None] / 2
    seen = corrected.counts > 1000
    bumps = np.abs(corrected.bias_mm / 1000 / middle)[seen]
    if depth.real and bumps.size and np.max(bumps) > _LARGEST_BUMP:
        problems.append(
            f"depth stays off by up to {np.max(bumps):.1%} in parts of the picture after the correction: a bent "
            "housing or lens; calibrate with the maker's tool"
        )
    return problems


def outline(board: Board, pose: np.ndarray, camera: Pinhole) -> np.ndarray:
    """(4, 2) px: where the board's corners are seen."""
    width, height = board.size_m
    corners = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]], np.float64)
    rotation = cv2.Rodrigues(pose[:3, :3])[0]
    return cv2.projectPoints(corners, rotation, pose[:3, 3], camera.matrix, None)[0].reshape(-1, 2)
