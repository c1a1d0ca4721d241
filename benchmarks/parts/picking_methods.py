"""Ways to choose grasps, all with the same frames: ours, an oracle, a heuristic, chance. Peers are in `peers/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from parts.picking_scene import Answer, Method, Proposal, View

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.robot.base import tips_of
from zerograsp_edge.runtime.simulation.gripper import MAX_OPENING_MM

MOST_OPENING = MAX_OPENING_MM / 1000


def proposals_of(grasps: Grasps, camera: np.ndarray) -> list[Proposal]:
    """Grasps in the camera frame as proposals in the base frame."""
    tips = camera @ tips_of(grasps)
    u, _, v = np.linalg.svd(tips[:, :3, :3])
    tips[:, :3, :3] = u @ v  # float32 rotations are not orthonormal enough
    return [
        Proposal(int(i), pose, float(width), float(score))
        for i, pose, width, score in zip(grasps.object_id, tips, grasps.width, grasps.score, strict=True)
    ]


class Ours:
    """The runtime's pipeline. What it refuses as a frame is a frame without proposals."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def __call__(self, view: View) -> Answer:
        try:
            result = self.pipeline(view.frame, view.camera)
        except ZeroGraspError as error:
            return Answer([], dict.fromkeys(view.frame.object_ids(), str(error)))
        reasons = {item.object_id: item.reason for item in result.skipped}
        if result.refinement is not None:
            for object_id, removed in result.refinement.removed_by_object.items():
                if result.refinement.kept_by_object[object_id] == 0:
                    most = max(removed, key=lambda name: removed[name])
                    reasons[object_id] = most if removed[most] else "no candidate"
        best = Grasps.concatenate([item.grasps.top(1) for item in result.objects])
        return Answer(proposals_of(best, view.camera), reasons)


class Oracle:
    """Training labels of the exact shapes where they are now: what perfect perception could choose.

    Labels of an object are kept until it, or something near it, has moved, or something near it was taken away while
    it had no good grasp: removing a neighbour does not spoil a grasp.
    """

    _NEAR_MM, _MOVED_MM, _GOOD = 180.0, 0.5, 0.5

    def __init__(self) -> None:
        self._surfaces: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._labels: dict[int, Grasps] = {}
        self._poses: dict[int, np.ndarray] = {}

    def __call__(self, view: View) -> Answer:
        from parts.grasp_success import labelled

        from zerograsp_edge.export.training.grasps import label_world
        from zerograsp_edge.export.training.sample import ObjectSurface
        from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples

        robot = view.robot
        present, poses = robot.present(), robot.object_poses()
        items = [
            replace(item, pose=pose)
            for item, pose, here in zip(robot.world.objects, poses, present, strict=True)
            if here
        ]
        world = replace(robot.world, objects=tuple(items))
        for item in items:
            if item.object_id not in self._surfaces:
                self._surfaces[item.object_id] = surface_samples(item.shape, 2.0, np.random.default_rng(0))
        stale = self._stale({item.object_id: item.pose for item in items})
        for item in items:
            if item.object_id in stale:
                nothing = tuple(np.empty((0, 3), np.float32) for _ in range(2))
                rows = label_world(
                    world,
                    [self._surfaces[o.object_id] if o is item else nothing for o in items],
                    np.random.default_rng(0),
                )[items.index(item)]
                points, normals = self._surfaces[item.object_id]
                surface = ObjectSurface(item.object_id, item.family, item.pose, points, normals, rows)
                self._labels[item.object_id] = labelled(surface).top(1)
        self._poses = {item.object_id: item.pose for item in items}
        grasps = [
            self._labels[item.object_id].transformed(_metres(item.pose))
            for item in items
            if len(self._labels[item.object_id])
        ]
        without = {item.object_id: "no label" for item in items if not len(self._labels[item.object_id])}
        return Answer(proposals_of(Grasps.concatenate(grasps), np.eye(4)), without)

    def _stale(self, poses: Mapping[int, np.ndarray]) -> set[int]:
        def moved(i: int) -> bool:
            before = self._poses.get(i)
            return before is None or np.abs((poses[i] - before)[:3] * [50, 50, 50, 1]).max() > self._MOVED_MM

        changed = {i for i in poses if moved(i)}
        gone = set(self._poses) - set(poses)
        stale = set()
        for i, pose in poses.items():
            good = i in self._labels and len(self._labels[i]) and self._labels[i].score[0] >= self._GOOD

            def near(where: np.ndarray, pose: np.ndarray = pose) -> bool:
                return bool(np.linalg.norm(where[:3, 3] - pose[:3, 3]) < self._NEAR_MM)

            if any(near(poses[j]) for j in changed) or (not good and any(near(self._poses[j]) for j in gone)):
                stale.add(i)
        return stale


def top_down(view: View) -> Answer:
    """Straight down on the middle of what is seen of an object, fingers across its shorter side.

    The middle and the axes are those of the visible points' extent from above (principal axes). The fingers go 30 mm
    below the object's top, but not nearer than 5 mm to the support, and open 10 mm wider than the object on
    either side. Objects whose top is highest come first.
    """
    proposals = []
    for object_id, points in _points_by_object(view.frame, view.camera):
        flat = points[:, :2] - points[:, :2].mean(axis=0)
        _, axes = np.linalg.eigh(flat.T @ flat)
        low, high = (np.percentile(points[:, :2] @ axes, q, axis=0) for q in (2, 98))
        closing = np.array([*axes[:, 0], 0.0])
        top = float(np.percentile(points[:, 2], 98))
        tips = np.eye(4)
        down = np.array([0.0, 0.0, -1.0])
        tips[:3, :3] = np.stack([down, closing, np.cross(down, closing)], axis=1)
        tips[:2, 3] = axes @ ((low + high) / 2)
        tips[2, 3] = max(top - 0.03, 0.005)
        opening = min(float((high - low)[0]) + 0.02, MOST_OPENING)
        proposals.append(Proposal(object_id, tips, opening, top))
    return Answer(proposals)


def chance(view: View) -> Answer:
    """A visible point of an object, any direction from above, any closing direction, depth and opening."""
    from scipy.spatial.transform import Rotation

    proposals = []
    for object_id, points in _points_by_object(view.frame, view.camera):
        turn = Rotation.random(random_state=int(view.rng.integers(1 << 31))).as_matrix()
        if turn[2, 0] > 0:
            turn[:, :2] *= -1  # not from below
        tips = np.eye(4)
        tips[:3, :3] = turn
        tips[:3, 3] = points[view.rng.integers(len(points))] + view.rng.uniform(0, 0.04) * turn[:, 0]
        proposals.append(
            Proposal(object_id, tips, float(view.rng.uniform(0.03, 0.1)), float(view.rng.uniform()))
        )
    return Answer(proposals)


def _points_by_object(frame: Frame, camera: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Mask value and (n, 3) visible points in the base frame, m, of every object that has any."""
    cloud = frame.point_image().reshape(-1, 3) / 1000
    mask = np.asarray(frame.mask).ravel()
    for object_id in frame.object_ids():
        points = cloud[(mask == object_id) & (cloud[:, 2] > 0)]
        if len(points):
            yield object_id, points @ camera[:3, :3].T + camera[:3, 3]


def _metres(pose: np.ndarray) -> np.ndarray:
    scaled = np.array(pose, np.float64)
    scaled[:3, 3] /= 1000
    return scaled


def describe(method: Method) -> dict[str, Any]:
    """What the results file notes about a method, so that results of another version are not mixed in."""
    if isinstance(method, Ours):
        return {
            "bundle": str(method.pipeline.bundle.manifest.get("files", "")),
            "refine": repr(method.pipeline.refine),
        }
    return {}
