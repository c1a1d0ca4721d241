"""The same seeded scenes, cleared by the product's own grasp loop: it chooses, verifies, retries, gives up."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from parts.picking_scene import (
    COLLIDED,
    MISSED,
    NOTHING,
    PICKED,
    REFUSED,
    SLIPPED,
    UNSEEN,
    Attempt,
    draw_scene,
)

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.loop import Event, GraspLoop, Limits, LoopConfig, State, TipsPose
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
from zerograsp_edge.runtime.simulation.scenes import SceneKind

# A cell does not end its shift because one object cannot be grasped: faults at an object are cleared, and failures in a
# row are as many as the default allows.
LIMITS = Limits(robot_faults=10_000, no_grasp_views=3, empty_views=2)
_OUTCOME = {
    "nothing held": MISSED, "lost": SLIPPED, "still there": SLIPPED,
    "blocked": COLLIDED, "fault": COLLIDED, "refused": REFUSED,
}  # fmt: skip


def clear_with_loop(kind: SceneKind, index: int, pipeline: Pipeline) -> dict[str, Any]:
    """A fresh copy of the scene, worked on by `GraspLoop` until it ends by itself.

    Returns:
        A record like that of `picking_scene.work_through`, with as many attempts per object as the loop made, and how
        the loop ended.
    """
    scene = draw_scene(kind, index)
    robot, families = scene.robot, scene.families
    perception = _Stopwatch(pipeline)
    attempts: list[Attempt] = []
    begun, touched = 0.0, list[str]()

    def note(event: Event) -> None:
        nonlocal begun, touched
        if event.event == "enter" and event.state is State.OPEN:
            begun, touched = event.time, []
        if event.event == "enter" and event.state is State.CLOSE:
            touched = sorted({touch.what for touch in robot.touched(begun)})
        if event.event in ("picked", "attempt_failed", "motion_refused"):
            object_id = int(event.data["object_id"])
            failure = str(event.data.get("kind", "refused"))
            outcome = PICKED if event.event == "picked" else _OUTCOME[failure]
            attempts.append(
                Attempt(
                    object_id, families[object_id], outcome, touched, event.reason, event.time - begun,
                    float(event.data["score"]),
                )
            )  # fmt: skip

    config = replace(
        LoopConfig(), limits=LIMITS, place=(TipsPose.of(robot.drop),), observe=TipsPose.of(robot.home)
    )
    with RobotCamera(robot, scene.intrinsics, scene.seed) as camera:
        report = GraspLoop(robot, camera, perception, config, callback=note, threaded=False).run(signals=False)
    picked = set(robot.placed)
    for object_id in families.keys() - picked - {a.object_id for a in attempts}:
        seen = object_id in perception.seen
        attempts.append(
            Attempt(object_id, families[object_id], NOTHING if seen else UNSEEN, reason=report.ending.value)
        )
    return {
        "kind": kind, "index": index, "split": scene.split, "objects": len(families), "picked": sorted(picked),
        "robot_s": round(robot.now(), 3), "perception_s": round(perception.seconds, 4),
        "frames": perception.frames, "attempts": [asdict(a) for a in attempts],
        "ending": report.ending.value, "claimed": report.picks,
    }  # fmt: skip


class _Stopwatch:
    """The pipeline as the loop calls it, with its wall time, and which objects it found."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.seconds, self.frames = 0.0, 0
        self.seen: set[int] = set()

    def __call__(self, frame: Frame, base_from_camera: np.ndarray) -> Result:
        started = time.perf_counter()
        try:
            result = self._pipeline(frame, base_from_camera)
        finally:
            self.seconds += time.perf_counter() - started
            self.frames += 1
        self.seen |= {item.object_id for item in result.objects}
        return result
