"""Whether two runs would grasp alike: the best grasps they share, and whether both scenes admit the same ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.kernels.hand import Fit
from zerograsp_edge.runtime.grasp.nms import NMS_ANGLE_DEG, NMS_DISTANCE_M, non_maximum_suppression
from zerograsp_edge.runtime.grasp.refine import RefineConfig, scene_points
from zerograsp_edge.runtime.result import Grasps, Result

TOP = 50


def best_grasps(result: Result, count: int = TOP) -> Grasps:
    """The best grasps of a frame that do not repeat each other, best first, as the network predicts them."""
    return result.grasps[non_maximum_suppression(result.grasps)[:count]]


def matched(
    a: Grasps, b: Grasps, distance: float = NMS_DISTANCE_M, angle: float = NMS_ANGLE_DEG
) -> np.ndarray:
    """Pairs of grasps that are one grasp, each in one pair at most, the closest first.

    Two grasps are one when they are of the same object, nearer than `distance` (m) and turned by less than `angle`
    (degrees). Turned by 180 degrees about its approach axis a parallel gripper is the same hand.

    Returns:
        (m, 2) int64 positions in a and in b.
    """
    gap = np.linalg.norm(a.translation[:, None].astype(np.float64) - b.translation[None], axis=2)
    axes = np.einsum("aij,bij->abj", a.rotation.astype(np.float64), b.rotation)
    # The trace of the relative rotation, with the closing direction of whichever sign is nearer.
    cosine = (axes[..., 0] + np.abs(axes[..., 1] + axes[..., 2]) - 1) / 2
    turned = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    one = (gap < distance) & (turned < angle) & (a.object_id[:, None] == b.object_id)
    rows, columns = np.nonzero(one)
    order = np.argsort((gap / distance + turned / angle)[one], kind="stable")
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    pairs = []
    for i, j in zip(rows[order], columns[order], strict=True):
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            pairs.append((i, j))
    return np.array(pairs, np.int64).reshape(-1, 2)


def admitted(grasps: Grasps, result: Result, visible: np.ndarray, threads: int = 0) -> np.ndarray:
    """(G,) bool: which grasps fit the hand and are free of collision in a reconstruction, on the way there too.

    Args:
        grasps: camera frame, m.
        result: whose surfaces may be touched.
        visible: (n, 3) m, what the camera sees besides.
    """
    config = RefineConfig()
    assert config.approach_distance is not None
    hand = replace(config.gripper.hand, sweep=config.approach_distance)
    fitted = kernels.refine_grasps(
        *(
            np.ascontiguousarray(getattr(grasps, name), np.float32)
            for name in ("rotation", "translation", "width", "depth")
        ),
        np.ascontiguousarray(scene_points(result.objects, visible), np.float32), hand, threads=threads,
    )  # fmt: skip
    return fitted.fit == Fit.FITS
