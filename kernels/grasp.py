"""Refinement of grasps against the points of a scene, and suppression of grasps that repeat a better one."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array
from zerograsp_edge.kernels.hand import Hand, RefinedGrasps
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = ["refine_grasps", "suppress_grasps"]

# A rotation may miss orthonormality by this much: float32 rounding of a composition, not a wrong matrix.
ORTHONORMAL_TOLERANCE = 1e-4
# Coordinates are metres; beyond this float32 resolves less than a finger.
MAX_COORDINATE_M = 1e4

_scratch = threading.local()


def refine_grasps(
    rotation: NDArray[np.float32],  # (G, 3, 3)
    translation: NDArray[np.float32],  # (G, 3)
    width: NDArray[np.float32],  # (G,)
    depth: NDArray[np.float32],  # (G,)
    points: NDArray[np.float32],  # (N, 3)
    hand: Hand | None = None,
    *,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> RefinedGrasps:
    """Contact-constrained width and depth of every grasp, and whether the hand fits.

    With a grasp's *inner* points, those between its fingers:

    - left and right contact: the inner point nearest to either finger. Every point that is not inner counts as one
      in the middle, with its own x; of equal distances the first point wins. With c the smaller distance:
    - width += 2 (clamp(c, min_clearance, max_clearance) - c);
      depth = max(min(max(x_left, x_right) + tip_margin, depth), 0).
    - a hand that opens less than that takes `max_opening` if the smallest clearance is left, else it is TOO_WIDE.
    - EMPTY with fewer than `min_inner_points` inner points.
    - FINGER, PALM: a point lies in a finger or in the palm, at the new depth and the *given* width.
    - SWEEP: a point lies where the hand passes, from `sweep` behind the grasp to the grasp, at new depth and width.

    A uniform grid over the points that any grasp can reach lets a grasp look only at those near its own hand.

    Args:
        rotation: (G, 3, 3) float32, orthonormal; columns approach, closing, height.
        translation: (G, 3) float32, m.
        width, depth: (G,) float32, m, not negative.
        points: (N, 3) float32, m, the scene in the same frame; their order decides ties.
        hand: the hand; by default the published one, without a sweep.
        workspace: scratch memory to reuse; by default one per thread.
        threads: threads to use; 0 takes OpenMP's default. The result does not depend on it.

    Returns:
        New arrays. Without any point, widths and depths stay and every grasp is EMPTY.

    Raises:
        TypeError, ValueError: an argument has another type, dtype, shape or layout, is not finite, or is out of range.
    """
    hand = Hand() if hand is None else hand
    _check_poses(rotation, translation)
    count = len(translation)
    check_array("width", width, np.float32, (count,))
    check_array("depth", depth, np.float32, (count,))
    check_array("points", points, np.float32, ("N", 3))
    _check_metres("points", points)
    for name, lengths in (("width", width), ("depth", depth)):
        _check_metres(name, lengths)
        if (lengths < 0).any():
            raise ValueError(f"{name}: expected lengths in m, not negative, got {lengths.min()}")
    if len(points) >= 2**31 or count >= 2**31:
        raise ValueError(f"expected fewer than 2^31 points and grasps, got {len(points)} and {count}")
    if threads < 0:
        raise ValueError(f"threads: expected 0 (all) or a positive number, got {threads}")
    out = RefinedGrasps(
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.int32),
        np.empty(count, np.uint8),
    )
    _refinement(workspace).refine(
        rotation, translation, width, depth, hand.lengths(), hand.min_inner_points, points,
        out.width, out.depth, out.inner_points, out.fit, threads,
    )  # fmt: skip
    return out


def suppress_grasps(
    rotation: NDArray[np.float32],  # (G, 3, 3)
    translation: NDArray[np.float32],  # (G, 3)
    group: NDArray[np.int32],  # (G,)
    distance: float = 0.03,
    angle: float = 30.0,
    *,
    workspace: Workspace | None = None,
) -> NDArray[np.bool_]:
    """Non-maximum suppression: which grasps to keep, of grasps that come best first.

    A grasp is dropped when a kept one of its group is closer than `distance` and turned by less than `angle`. A
    parallel hand turned by 180 degrees about its approach axis is the same hand: the smaller angle counts.

    Args:
        rotation: (G, 3, 3) float32, orthonormal; columns approach, closing, height.
        translation: (G, 3) float32, m.
        group: (G,) int32; grasps of different groups never suppress each other.
        distance: m; 0 keeps every grasp.
        angle: degrees, 0 to 180.
        workspace: scratch memory to reuse; by default one per thread.

    Returns:
        (G,) bool.

    Raises:
        TypeError, ValueError: an argument has another type, dtype, shape or layout, is not finite, or is out of range.
    """
    _check_poses(rotation, translation)
    check_array("group", group, np.int32, (len(translation),))
    if not 0 <= distance <= MAX_COORDINATE_M:
        raise ValueError(f"distance: expected 0 to {MAX_COORDINATE_M:g} m, got {distance}")
    if not 0 <= angle <= 180:
        raise ValueError(f"angle: expected 0 to 180 degrees, got {angle}")
    kept = np.empty(len(group), np.uint8)
    cosine = math.cos(math.radians(angle))
    _refinement(workspace).suppress(rotation, translation, group, distance, cosine, kept)
    return kept.view(bool)


def _refinement(workspace: Workspace | None) -> core.GraspRefinement:
    if workspace is not None:
        return workspace.grasps
    if not hasattr(_scratch, "refinement"):  # one per thread: it serves one call at a time
        _scratch.refinement = core.GraspRefinement()
    return _scratch.refinement


def _check_poses(rotation: NDArray[np.float32], translation: NDArray[np.float32]) -> None:
    check_array("translation", translation, np.float32, ("G", 3))
    check_array("rotation", rotation, np.float32, (len(translation), 3, 3))
    _check_metres("translation", translation)
    if not len(rotation):
        return
    columns = rotation.transpose(2, 1, 0)
    products = [
        np.einsum("ig,ig->g", columns[a], columns[b]) - (a == b) for a in range(3) for b in range(a + 1)
    ]
    error = np.abs(products).max()
    if not error <= ORTHONORMAL_TOLERANCE:  # NaN is not
        raise ValueError(
            f"rotation: expected orthonormal matrices, got one whose R^T R misses the identity by {error:g}"
        )


def _check_metres(name: str, array: NDArray[np.float32]) -> None:
    # The extremes of an array with NaN are NaN.
    if array.size and not (array.min() >= -MAX_COORDINATE_M and array.max() <= MAX_COORDINATE_M):
        finite = np.isfinite(array)
        got = f"{array.flat[int(np.abs(array).argmax())]:g}" if finite.all() else "NaN or infinity"
        raise ValueError(f"{name}: expected finite values within +-{MAX_COORDINATE_M:g} m, got {got}")
