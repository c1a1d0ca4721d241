"""Ranking of grasps, and suppression of those that repeat a better one."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.kernels.grasp import suppress_grasps
from zerograsp_edge.kernels.workspace import Workspace
from zerograsp_edge.runtime.result import Grasps

NMS_DISTANCE_M, NMS_ANGLE_DEG = 0.03, 30.0


def rank(grasps: Grasps) -> np.ndarray:
    """(G,) int64 positions of the grasps, best score first; of equal scores the one that came first.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(grasps.score).any():
        raise ValueError(f"grasps: expected scores, got {np.isnan(grasps.score).sum()} NaN")
    return np.argsort(-grasps.score, kind="stable")


def non_maximum_suppression(
    grasps: Grasps,
    distance: float = NMS_DISTANCE_M,
    angle: float = NMS_ANGLE_DEG,
    *,
    across_objects: bool = False,
    workspace: Workspace | None = None,
) -> np.ndarray:
    """(K,) int64 positions of the grasps that no better one makes redundant, best first.

    Greedy, in the order of `rank`: a grasp is dropped when a kept one of its object lies closer than `distance` (m) and
    is turned by less than `angle` (degrees). Turned by 180 degrees about its approach axis a parallel gripper is the
    same hand.

    Args:
        grasps: in any order, all in one frame.
        across_objects: a kept grasp also suppresses those of other objects.
        workspace: scratch memory to reuse.
    """
    order = rank(grasps)
    ranked = grasps[order]
    group = np.zeros(len(order), np.int32) if across_objects else np.asarray(ranked.object_id, np.int32)
    rotation, translation = (
        np.ascontiguousarray(v, np.float32) for v in (ranked.rotation, ranked.translation)
    )
    return order[suppress_grasps(rotation, translation, group, distance, angle, workspace=workspace)]
