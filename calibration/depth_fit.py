"""Depth against the board's plane: samples, the four-number correction, and the map of errors over the picture.

The model is in `runtime/camera/correction.py`. It is fitted in inverse depth, where the noise of a stereo camera is the
same at every distance: a disparity error e moves z = f B / d by z^2 e / (f B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board
from zerograsp_edge.runtime.camera.correction import Pinhole
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM

# How far a camera may be off, one standard deviation: scale relative; offset and tilts in 1/m (2 % at a metre).
PRIOR_SCALE, PRIOR_PLANE = 0.02, 0.02
# Depth at the board's outline is mixed with what is behind: this much of a square is left out, and this many pixels.
_INSET, _INSET_PX = 0.4, 3
# Medians over tiles take out the noise of single pixels; a tile counts with at least half of its pixels.
_TILE = 16
_HUBER = 2.5
# Inverse depth is never taken to be known better, 1/m: 0.1 mm at half a metre.
_LEAST_NOISE = 4e-4
_STEPS = 30
# The correction that changes nothing.
IDENTITY = np.array([1.0, 0.0, 0.0, 0.0])


@dataclass(frozen=True, eq=False)
class PlaneSamples:
    """Depth measured on the board in one picture.

    Attributes:
        pixels: (n, 2) int32 u, v of pixels with depth.
        depth: (n,) float64, m, measured.
        plane: (n,) float64, m: depth of the board's plane there.
        tile: (n,) int64, number of the pixel's tile among this view's.
        tiles: (t, 4): of every tile the median of x, y, inverse measured depth and inverse depth of the plane, 1/m.
        valid: share of the board's pixels that have depth.
    """

    pixels: np.ndarray
    depth: np.ndarray
    plane: np.ndarray
    tile: np.ndarray
    tiles: np.ndarray
    valid: float


def plane_samples(board: Board, depth: np.ndarray, camera: Pinhole, pose: np.ndarray) -> PlaneSamples:
    """Compare a depth picture (H, W), mm, with the board at `pose` (4, 4) camera <- board, m."""
    width, height = board.size_m
    inset = _INSET * board.square_m
    corners = np.array([[inset, inset, 0], [width - inset, inset, 0], [width - inset, height - inset, 0],
                        [inset, height - inset, 0]])  # fmt: skip
    outline = cv2.projectPoints(corners, cv2.Rodrigues(pose[:3, :3])[0], pose[:3, 3], camera.matrix, None)[0]
    filled = np.zeros(depth.shape, np.uint8)
    cv2.fillConvexPoly(filled, np.rint(outline).astype(np.int32), 1)
    size = 2 * _INSET_PX + 1
    inside = cv2.erode(filled, np.ones((size, size), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    v, u = np.nonzero(inside)
    measured = depth[v, u].astype(np.float64) / 1000
    seen = measured > MIN_DEPTH_MM / 1000
    valid = float(seen.mean()) if seen.size else 0.0
    u, v, measured = u[seen], v[seen], measured[seen]
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    normal = pose[:3, 2]
    inverse = (normal[0] * x + normal[1] * y + normal[2]) / float(normal @ pose[:3, 3])
    _, tile = np.unique((v // _TILE) * (depth.shape[1] // _TILE + 1) + u // _TILE, return_inverse=True)
    tile = tile.ravel()
    order = np.argsort(tile, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(tile[order])) + 1) if len(order) else []
    values = np.stack([x, y, 1 / measured, inverse], axis=1)
    medians = [np.median(values[g], axis=0) for g in groups if 2 * len(g) >= _TILE**2]
    return PlaneSamples(
        np.stack([u, v], axis=1).astype(np.int32), measured, 1 / inverse, tile,
        np.array(medians).reshape(-1, 4), valid,
    )  # fmt: skip


def fit_depth(views: Sequence[PlaneSamples]) -> np.ndarray:
    """(4,) scale, offset, tilt_x, tilt_y (`DepthCorrection`) that bring depth onto the planes, held near the identity.

    Fitted the other way round, measured = a plane + b0 + bx x + by y: there the noise is on the left side, as least
    squares assumes.
    """
    x, y, measured, plane = np.concatenate([view.tiles for view in views]).T
    design = np.stack([plane, np.ones_like(plane), x, y], axis=1)
    target = measured - plane
    prior = np.array([PRIOR_SCALE, PRIOR_PLANE, PRIOR_PLANE, PRIOR_PLANE])
    # Every view weighs the same: a near board has more tiles, which share its pose's error.
    share = np.concatenate([np.full(len(v.tiles), 1 / max(len(v.tiles), 1)) for v in views])
    share *= len(share) / max(share.sum(), 1e-12)
    value = np.zeros(4)
    for _ in range(_STEPS):
        residual = target - design @ value
        noise = max(1.4826 * float(np.median(np.abs(residual))), _LEAST_NOISE)
        weight = share * _HUBER / np.maximum(np.abs(residual) / noise, _HUBER) / noise**2
        normal = design.T @ (weight[:, None] * design) + np.diag(1 / prior**2)
        new = np.linalg.solve(normal, design.T @ (weight * target))
        done = np.abs(new - value).max() < 1e-9
        value = new
        if done:
            break
    a = 1 + value[0]
    return np.append(1, -value[1:]) / a


def tile_errors(view: PlaneSamples, correction: np.ndarray) -> np.ndarray:
    """(t,) relative error of depth after the correction, tile by tile: positive is too far."""
    x, y, measured, plane = view.tiles.T
    scale, offset, tilt_x, tilt_y = correction
    return plane / (scale * measured + offset + tilt_x * x + tilt_y * y) - 1


def pixel_errors(view: PlaneSamples, camera: Pinhole, correction: np.ndarray) -> np.ndarray:
    """(n,) m, depth after the correction less the plane's."""
    x = (view.pixels[:, 0] - camera.cx) / camera.fx
    y = (view.pixels[:, 1] - camera.cy) / camera.fy
    scale, offset, tilt_x, tilt_y = correction
    return view.depth / (scale + view.depth * (offset + tilt_x * x + tilt_y * y)) - view.plane


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """Errors of depth by distance and region of the picture.

    Attributes:
        edges: (b + 1,) m, bounds of the distances.
        bias_mm: (b, rows, columns), mean error; NaN where the board never was.
        noise_mm: (b, rows, columns), standard deviation within a tile, from medians.
        counts: (b, rows, columns), pixels.
        bin_bias_mm, bin_noise_mm, bin_disparity_px: (b,) over the whole picture; the last one is the noise as a
            disparity error, for the focal length and baseline given.
    """

    edges: np.ndarray
    bias_mm: np.ndarray
    noise_mm: np.ndarray
    counts: np.ndarray
    bin_bias_mm: np.ndarray
    bin_noise_mm: np.ndarray
    bin_disparity_px: np.ndarray


def error_map(
    views: Sequence[PlaneSamples],
    camera: Pinhole,
    correction: np.ndarray,
    size: tuple[int, int],
    baseline_m: float,
    grid: tuple[int, int] = (6, 8),
    bins: int = 3,
) -> ErrorMap:
    """Errors over rows x columns of the picture, in bins of distance that hold equally many pixels.

    Args:
        size: (width, height).
        baseline_m: of the stereo camera, for the noise in pixels of disparity.
    """
    rows, columns = grid
    error = np.concatenate([pixel_errors(v, camera, correction) for v in views])
    distance = np.concatenate([v.plane for v in views])
    u, v = np.concatenate([view.pixels for view in views]).T
    # Noise: what is left within a tile after its median.
    within, first = [], 0
    for view in views:
        own = error[first : first + len(view.depth)]
        first += len(own)
        residual = np.empty_like(own)
        order = np.argsort(view.tile, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(view.tile[order])) + 1):
            residual[group] = own[group] - np.median(own[group])
        within.append(np.abs(residual))
    spread = 1.4826 * np.concatenate(within)
    edges = np.quantile(distance, np.linspace(0, 1, bins + 1))
    which = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, bins - 1)
    cell = (which * rows + v * rows // size[1]) * columns + u * columns // size[0]
    shape = (bins, rows, columns)
    bias, noise, counts = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64)
    for index in np.unique(cell):
        own = cell == index
        place = np.unravel_index(index, shape)
        counts[place] = np.count_nonzero(own)
        bias[place], noise[place] = 1000 * error[own].mean(), 1000 * np.median(spread[own])
    members = [which == b for b in range(bins)]
    disparity = spread * camera.fx * baseline_m / distance**2
    return ErrorMap(
        edges, bias, noise, counts,
        np.array([1000 * error[m].mean() if m.any() else np.nan for m in members]),
        np.array([1000 * np.median(spread[m]) if m.any() else np.nan for m in members]),
        np.array([np.median(disparity[m]) if m.any() else np.nan for m in members]),
    )  # fmt: skip
