"""The best grasp of every object, executed by the simulated gripper in the world that the frame shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from harness import Figure, figure

from zerograsp_edge.export.training.sample import GRASPNESS, QUALITY, ObjectSurface, SceneSample
from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.grasp.decode import SIGNAL_CHANNELS, decode_grasps
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.simulation.world import World

OURS, LABEL = "ours", "best label"
NO_GRASP = "no grasp"
NAMES = {"test_trained": "trained families", "test_unseen": "unseen families"}
# Between a world made again and the stored one: rounding of the files, not a different motion.
_SAME_MM = 0.1


class WorldMismatch(ZeroGraspError, RuntimeError):
    """A stored scene is not of the world that its seed gives."""


@dataclass(frozen=True)
class Trial:
    """One executed grasp.

    Attributes:
        method: `ours`, or `best label`: the exact geometry's best grasp, what a perfect network could reach.
        split, scene_kind, family: of the object that was to be grasped.
        outcome: of `simulation.gripper.OUTCOMES`, or NO_GRASP.
    """

    method: str
    split: str
    scene_kind: str
    family: str
    outcome: str


def best(grasps: Grasps) -> Grasps:
    """The grasp with the highest score, as a set of one or none.

    Non-maximum suppression keeps the best of all first, so that it would not change which this is.
    """
    return grasps.top(1)


def labelled(item: ObjectSurface) -> Grasps:
    """The object's labelled grasps in its own frame, m, scored by graspness times quality."""
    rows = np.flatnonzero(item.grasps[:, GRASPNESS] * item.grasps[:, QUALITY] > 0)
    signal = np.zeros((len(rows), SIGNAL_CHANNELS), np.float32)
    # The labels are the network's signal after normal and signed distance.
    signal[:, :3], signal[:, 4:] = item.normals[rows], item.grasps[rows]
    signal[:, 4] *= item.grasps[rows, QUALITY]
    return decode_grasps(signal, item.points[rows], np.full(len(rows), item.object_id))


def run(sample: SceneSample, split: str, grasps: Mapping[int, Grasps], asked: Sequence[int]) -> list[Trial]:
    """Executes the best predicted and the best labelled grasp of every asked object, each in the untouched world.

    Args:
        grasps: predicted, by mask value, camera frame, m.

    Raises:
        WorldMismatch: the scene was made by another version of the generator.
    """
    from zerograsp_edge.runtime.simulation.gripper import GraspTrials

    trials = GraspTrials(world_of(sample, split))
    view_to_world = _metres(sample.views[0].camera_pose)
    results = []
    for item in sample.objects:
        if item.object_id not in asked:
            continue
        candidates = {
            OURS: best(grasps.get(item.object_id, Grasps.empty())).transformed(view_to_world),
            LABEL: best(labelled(item)).transformed(_metres(item.pose)),
        }
        for method, grasp in candidates.items():
            outcome = NO_GRASP
            if len(grasp):
                outcome = trials.try_grasp(
                    _rigid(grasp.poses()[0]), float(grasp.width[0]), float(grasp.depth[0]), item.object_id
                ).outcome
            results.append(Trial(method, split, sample.support_kind, item.family, outcome))
    return results


def world_of(sample: SceneSample, split: str) -> World:
    """The world a scene was made of, made again from its seed. Raises WorldMismatch."""
    from zerograsp_edge.runtime.simulation.scenes import MOST_ATTEMPTS, attempt_world
    from zerograsp_edge.runtime.simulation.settle import SettleError
    from zerograsp_edge.runtime.simulation.solids import SolidError

    for attempt in range(MOST_ATTEMPTS):
        try:
            world = attempt_world(sample.seed, split, None, attempt)
        except (SettleError, SolidError):
            continue
        if [o.family for o in world.objects] != [o.family for o in sample.objects]:
            continue  # the scene was made of a later attempt
        if all(
            np.abs(a.pose - b.pose).max() < _SAME_MM
            for a, b in zip(world.objects, sample.objects, strict=True)
        ):
            return world
        break
    raise WorldMismatch(
        f"{split} seed {sample.seed}: its world, made again, is not the stored one; "
        "delete the folder of held-out scenes, so that this version makes them"
    )


def figures(trials: Sequence[Trial]) -> Iterator[Figure]:
    """Success by split and kind of scene, beside that of the best labels; how the failures went."""
    for split in dict.fromkeys(t.split for t in trials):
        mine = [t for t in trials if t.split == split]
        kinds = sorted({t.scene_kind for t in mine})
        for kind in ("all scenes", *kinds):
            chosen = [t for t in mine if kind in ("all scenes", t.scene_kind)]
            ours, label = ([t for t in chosen if t.method == m] for m in (OURS, LABEL))
            yield figure(
                f"{NAMES[split]}, {kind} ({len(ours)}): best grasp holds", _held(ours), "%", "higher",
                peer=f"{LABEL} on the exact shape", peer_value=_held(label),
            )  # fmt: skip
        failures = Counter(t.outcome for t in mine if t.method == OURS and t.outcome != "held")
        for outcome, count in failures.most_common():
            yield figure(f"{NAMES[split]}: failed best grasps: {outcome}", count, "")


def _held(trials: Sequence[Trial]) -> float:
    """Percent."""
    return 100 * sum(t.outcome == "held" for t in trials) / len(trials)


def _metres(pose: np.ndarray) -> np.ndarray:
    """(4, 4) with its translation in m instead of mm."""
    scaled = np.array(pose, np.float64)
    scaled[:3, 3] /= 1000
    return scaled


def _rigid(pose: np.ndarray) -> np.ndarray:
    """(4, 4) float64 whose rotation is the nearest to a float32 one."""
    u, _, v = np.linalg.svd(pose[:3, :3].astype(np.float64))
    result = pose.astype(np.float64)
    result[:3, :3] = u @ v
    return result
