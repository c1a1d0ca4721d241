"""From a frame's decoded grasps to those that a robot may execute: refined, free of collision, distinct, ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.kernels.hand import Fit, RefinedGrasps
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig, complete
from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support, Workspace
from zerograsp_edge.runtime.grasp.gripper import ZEROGRASP, Gripper
from zerograsp_edge.runtime.grasp.nms import NMS_ANGLE_DEG, NMS_DISTANCE_M, non_maximum_suppression
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

# Why a grasp is removed: the first test that it fails, in this order.
REASONS = (
    "too low score",
    "workspace",
    "approach cone",
    "empty",
    "too wide",
    "finger collision",
    "palm collision",
    "sweep",
    "support",
    "nms",
    "per-object limit",
)
_KEPT = len(REASONS)
_REASON_OF_FIT = {
    Fit.EMPTY: "empty",
    Fit.TOO_WIDE: "too wide",
    Fit.FINGER: "finger collision",
    Fit.PALM: "palm collision",
    Fit.SWEEP: "sweep",
}
MIN_DEPTH_MM = 10.0  # a depth image is invalid up to here (spec, "Units and frames")


@dataclass(frozen=True)
class RefineConfig:
    """How grasps are refined and which are removed. Workspace, cone and support are in the robot's world frame.

    Attributes:
        gripper: whose geometry counts; `gripper.GRIPPERS` has presets.
        min_score: grasps below are removed; None keeps all.
        workspace: box of the grasp points; None is everywhere.
        approach: cone of approach directions; None is every direction.
        support: plane below which the hand may not go; None: only points collide.
        approach_distance: the hand comes in a straight line along the approach from this far before the grasp, m, and
            that path is checked at the refined opening; 0 checks only its end; None checks neither.
        visible_stride: every so many pixels of the depth image give a point that may collide.
        nms_distance, nms_angle: grasps of one object closer than both are one grasp; m and degrees.
        max_per_object: the best so many of each object stay; None keeps all.
        antipodal: judge grasps by the reconstructed surface, and add antipodal ones, instead of taking the network's
            as they are (`antipodal.py`); None does as the published code. Only `refine_objects` does this.
    """

    gripper: Gripper = ZEROGRASP
    min_score: float | None = None
    workspace: Workspace | None = None
    approach: ApproachCone | None = None
    support: Support | None = None
    approach_distance: float | None = 0.1
    visible_stride: int = 5
    nms_distance: float = NMS_DISTANCE_M
    nms_angle: float = NMS_ANGLE_DEG
    max_per_object: int | None = None
    antipodal: AntipodalConfig | None = None

    def __post_init__(self) -> None:
        if self.min_score is not None and math.isnan(self.min_score):
            raise ValueError("min_score: expected a number or None, got NaN")
        if self.approach_distance is not None and not 0 <= self.approach_distance <= 1:
            raise ValueError(f"approach_distance: expected 0 to 1 m or None, got {self.approach_distance}")
        if self.visible_stride < 1:
            raise ValueError(f"visible_stride: expected 1 or more pixels, got {self.visible_stride}")
        if not (self.nms_distance >= 0 and 0 <= self.nms_angle <= 180):
            raise ValueError(
                "nms: expected a distance of 0 m or more and an angle of 0 to 180 degrees, got "
                f"{self.nms_distance} and {self.nms_angle}"
            )
        if self.max_per_object is not None and self.max_per_object < 1:
            raise ValueError(f"max_per_object: expected 1 or more, or None, got {self.max_per_object}")


@dataclass(frozen=True)
class Refinement:
    """What refinement did to a frame's grasps.

    Attributes:
        total: grasps before.
        kept: grasps after.
        removed: how many each of `REASONS` removed, in their order; with `kept` they add up to `total`.
        removed_by_object: the same for every object, by mask value.
        kept_by_object: grasps after, by mask value.
    """

    total: int
    kept: int
    removed: dict[str, int]
    removed_by_object: dict[int, dict[str, int]] = field(default_factory=dict)
    kept_by_object: dict[int, int] = field(default_factory=dict)

    def explain(self) -> tuple[str, ...]:
        """One line per object without a grasp, and one for a frame without any: what removed them."""
        lines = []
        for object_id, removed in self.removed_by_object.items():
            if self.kept_by_object[object_id] == 0:
                lines.append(f"object {object_id}: {_explanation(removed)}")
        if self.kept == 0:
            lines.append(f"no grasp is left: {_explanation(self.removed)}")
        return tuple(lines)


def _explanation(removed: dict[str, int]) -> str:
    total = sum(removed.values())
    if total == 0:
        return "no grasp was predicted"
    parts = ", ".join(f"{count} {reason}" for reason, count in removed.items() if count)
    return f"all {total} grasps removed: {parts}"


def visible_points(depth: np.ndarray, intrinsics: np.ndarray, stride: int = 5) -> np.ndarray:
    """Every `stride`-th pixel's point, counted row by row, where the depth is valid.

    Args:
        depth: (H, W) mm; 0, NaN, infinity and anything else not above 10 mm is invalid.
        intrinsics: (3, 3) pinhole matrix, pixels.

    Returns:
        (n, 3) float32, m, camera optical frame.
    """
    z = depth.reshape(-1)[::stride].astype(np.float32)
    with np.errstate(invalid="ignore"):
        pixels = np.flatnonzero((z > MIN_DEPTH_MM) & (z < np.inf))
    z = z[pixels] / np.float32(1000)
    flat = (pixels * stride).astype(np.int32)
    row = flat // np.int32(depth.shape[1])
    column = flat - row * np.int32(depth.shape[1])
    fx, fy, cx, cy = (np.float32(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    points = np.empty((len(z), 3), np.float32)
    points[:, 0] = (column.astype(np.float32) - cx) / fx * z
    points[:, 1] = (row.astype(np.float32) - cy) / fy * z
    points[:, 2] = z
    return points


def scene_points(objects: Sequence[ObjectReconstruction], visible: np.ndarray) -> np.ndarray:
    """(n, 3) float32, m: the reconstructed surfaces of all objects, in their order, then the visible points."""
    surfaces = [item.points.astype(np.float32, copy=False) / np.float32(1000) for item in objects]
    return np.concatenate([*surfaces, visible.astype(np.float32, copy=False)])


def refine_grasps(
    grasps: Grasps,
    points: np.ndarray,
    config: RefineConfig | None = None,
    *,
    world_from_camera: np.ndarray | None = None,
    workspace: kernels.Workspace | None = None,
    threads: int = 0,
    refined: RefinedGrasps | None = None,
) -> tuple[Grasps, Refinement]:
    """Refines grasps against a scene and keeps those that can be executed.

    Width and depth are constrained by contacts, collisions are decided, both as `kernels.refine_grasps` says; then
    come the support, suppression and the limit per object.

    Args:
        grasps: as decoded, in the camera frame, of any number of objects.
        points: (n, 3) float32, m, camera frame: `scene_points`.
        config: by default everything that the published code does, and the approach path.
        world_from_camera: (4, 4) rigid, m; the frame of workspace, cone and support. None: the camera's frame is.
        workspace: scratch memory to reuse.
        threads: CPU threads; 0 takes all.
        refined: what `kernels.refine_grasps` finds about every grasp, where that is known; points are not used then.

    Returns:
        The grasps that are left, best first, with refined width and depth; and how many each reason removed.

    Raises:
        ValueError: points or grasps are not finite, a rotation is none, or the transform is not rigid.
    """
    config = RefineConfig() if config is None else config
    if np.isnan(grasps.score).any():
        raise ValueError(f"grasps: expected scores, got {np.isnan(grasps.score).sum()} NaN")
    sweep = config.approach_distance
    hand = replace(config.gripper.hand, sweep=-1.0 if sweep is None else sweep)
    verdict = np.full(len(grasps), _KEPT, np.uint8)
    world = grasps if world_from_camera is None else grasps.transformed(_rigid(world_from_camera))

    def remove(reason: str, where: np.ndarray) -> None:
        verdict[where & (verdict == _KEPT)] = REASONS.index(reason)

    if config.min_score is not None:
        remove("too low score", grasps.score < config.min_score)
    if config.workspace is not None:
        remove("workspace", ~config.workspace.allows(world))
    if config.approach is not None:
        remove("approach cone", ~config.approach.allows(world))

    rows = np.flatnonzero(verdict == _KEPT)
    if refined is None:
        candidates = grasps if len(rows) == len(grasps) else grasps[rows]
        fitted = kernels.refine_grasps(
            *(np.ascontiguousarray(getattr(candidates, name), np.float32)
              for name in ("rotation", "translation", "width", "depth")),
            np.ascontiguousarray(points, np.float32), hand, workspace=workspace, threads=threads,
        )  # fmt: skip
    else:
        fitted = RefinedGrasps(*(getattr(refined, name)[rows] for name in RefinedGrasps.__dataclass_fields__))
    reason_of_fit = np.full(len(Fit), _KEPT, np.uint8)
    for fit, reason in _REASON_OF_FIT.items():
        reason_of_fit[fit] = REASONS.index(reason)
    verdict[rows] = reason_of_fit[fitted.fit]

    rows = rows[fitted.fit == Fit.FITS]
    constrained = replace(
        grasps[rows], width=fitted.width[fitted.fit == Fit.FITS], depth=fitted.depth[fitted.fit == Fit.FITS]
    )
    if config.support is not None:
        in_world = replace(world[rows], width=constrained.width, depth=constrained.depth)
        allowed = config.support.allows(in_world, hand, sweep or 0.0)
        verdict[rows[~allowed]] = REASONS.index("support")
        rows, constrained = rows[allowed], constrained[allowed]

    order = non_maximum_suppression(constrained, config.nms_distance, config.nms_angle, workspace=workspace)
    dropped = np.ones(len(rows), bool)
    dropped[order] = False
    verdict[rows[dropped]] = REASONS.index("nms")
    if config.max_per_object is not None:
        beyond = _place_in_object(constrained.object_id[order]) >= config.max_per_object
        verdict[rows[order[beyond]]] = REASONS.index("per-object limit")
        order = order[~beyond]
    return constrained[order], _count(verdict, grasps.object_id)


def refine_objects(
    objects: Sequence[ObjectReconstruction],
    visible: np.ndarray,
    config: RefineConfig | None = None,
    *,
    world_from_camera: np.ndarray | None = None,
    workspace: kernels.Workspace | None = None,
    threads: int = 0,
    refined: RefinedGrasps | None = None,
) -> tuple[tuple[ObjectReconstruction, ...], Refinement]:
    """The objects of a frame with their refined grasps, each against the whole scene; see `refine_grasps`.

    Args:
        objects: of one frame.
        visible: (n, 3) m, camera frame, what the camera sees: `visible_points`.
        refined: see `refine_grasps`; of the objects' grasps in their order, without `antipodal`.
    """
    config = RefineConfig() if config is None else config
    if config.support is not None and config.support.thickness > 0:
        visible = visible[config.support.beyond(visible, world_from_camera)]
    points = scene_points(objects, visible)
    antipodal = config.antipodal
    if antipodal is None:
        every = Grasps.concatenate([item.grasps for item in objects])
    else:
        hand = replace(config.gripper.hand, tip_margin=math.inf)  # depths are chosen already
        config = replace(config, gripper=replace(config.gripper, hand=hand))
        up, floor = _gravity(config, world_from_camera)
        every = complete(objects, points, hand, up, floor, antipodal, threads)
    kept, refinement = refine_grasps(
        every, points, config,
        world_from_camera=world_from_camera, workspace=workspace, threads=threads, refined=refined,
    )  # fmt: skip
    for item in objects:  # an object without grasps is reported as well
        refinement.removed_by_object.setdefault(item.object_id, dict.fromkeys(REASONS, 0))
        refinement.kept_by_object.setdefault(item.object_id, 0)
    return tuple(replace(i, grasps=kept[kept.object_id == i.object_id]) for i in objects), refinement


def _gravity(
    config: RefineConfig, world_from_camera: np.ndarray | None
) -> tuple[np.ndarray | None, float | None]:
    """In the camera's frame: (3,) against gravity, and how far along it the hand must stay, m; as far as known."""
    if config.support is None and world_from_camera is None:
        return None, None
    world = np.eye(4) if world_from_camera is None else _rigid(world_from_camera)
    if config.support is None:
        return world[2, :3].copy(), None
    normal = np.asarray(config.support.normal) / np.linalg.norm(config.support.normal)
    return world[:3, :3].T @ normal, (
        config.support.offset + config.support.clearance - float(normal @ world[:3, 3])
    )


def _rigid(transform: np.ndarray) -> np.ndarray:
    transform = np.asarray(transform, np.float64)
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        raise ValueError(f"world_from_camera: expected a finite (4, 4) matrix, got shape {transform.shape}")
    rotation = transform[:3, :3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if error > 1e-4 or np.linalg.det(rotation) < 0 or transform[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"world_from_camera: expected a rigid transform, got {transform.tolist()}")
    return transform


def _place_in_object(object_id: np.ndarray) -> np.ndarray:
    """(n,) for every row how many rows before it have the same id."""
    order = np.argsort(object_id, kind="stable")
    ids = object_id[order]
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return place


def _count(verdict: np.ndarray, object_id: np.ndarray) -> Refinement:
    ids, index = np.unique(object_id, return_inverse=True)
    columns = len(REASONS) + 1
    counts = np.bincount(index * columns + verdict, minlength=len(ids) * columns).reshape(len(ids), columns)
    total = counts.sum(axis=0)

    def named(row: np.ndarray) -> dict[str, int]:
        return dict(zip(REASONS, row[:-1].tolist(), strict=True))

    return Refinement(
        total=len(verdict),
        kept=int(total[-1]),
        removed=named(total),
        removed_by_object={int(i): named(row) for i, row in zip(ids, counts, strict=True)},
        kept_by_object={int(i): int(row[-1]) for i, row in zip(ids, counts, strict=True)},
    )
