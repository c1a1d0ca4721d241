"""A seeded scene with a simulated robot, worked through by one method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import FrameError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.robot import MotionRefused
from zerograsp_edge.runtime.robot.base import withdrawn
from zerograsp_edge.runtime.robot.simulated import CameraMount, SimulatedRobot
from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
from zerograsp_edge.runtime.simulation.gripper import HELD_MM, LIFT_MM, MAX_OPENING_MM
from zerograsp_edge.runtime.simulation.scenes import HEIGHT, WIDTH, SceneKind, Split, look_at, make_world
from zerograsp_edge.runtime.simulation.world import World

# Kind of scene: fewest and most objects, support.
KINDS: dict[SceneKind, tuple[tuple[int, int], str]] = {
    "single": ((1, 1), "table"),
    "clutter": ((5, 8), "table"),
    "pile": ((8, 12), "bin"),
}
FIRST_SEED = 500_000  # no other benchmark, and no training or validation, uses these
PRE_GRASP_M = 0.1
_LONGEST_S = 20.0  # of any one motion
_HOLD_S = 0.5

PICKED, COLLIDED, MISSED, SLIPPED = "picked", "collided", "missed", "slipped"
REFUSED, NOTHING, UNSEEN = "refused", "nothing proposed", "not seen"


@dataclass(frozen=True, eq=False)
class View:
    """What a method may look at; the oracle alone also looks at the robot's world.

    Attributes:
        frame: noisy depth and masks.
        camera: (4, 4) base <- camera, m.
        robot: for its gripper, its reach and, to the oracle, the truth.
        rng: for methods that draw.
    """

    frame: Frame
    camera: np.ndarray
    robot: SimulatedRobot
    rng: np.random.Generator


@dataclass(frozen=True, eq=False)
class Proposal:
    """A grasp to execute.

    Attributes:
        object_id: which object it is for.
        tips: (4, 4) base <- tips when the fingers close, m.
        opening: of the fingers on the way in, m.
        score: comparable within one answer.
    """

    object_id: int
    tips: np.ndarray
    opening: float
    score: float


@dataclass(frozen=True)
class Answer:
    """Proposals of a method for a frame, and why an object has none, by object."""

    proposals: Sequence[Proposal]
    reasons: dict[int, str] = field(default_factory=dict)


Method = Callable[[View], Answer]


@dataclass
class Attempt:
    """One object of a scene, tried or not.

    Attributes:
        outcome: PICKED: in the drop zone. SLIPPED: lost after the fingers had it. MISSED: the fingers closed on
            nothing. COLLIDED: one of the two, after the open gripper had touched something on its way in, or was
            pushed harder than the robot allows. REFUSED: out of the robot's reach. NOTHING: the method had no grasp
            for it in any frame. UNSEEN: it was in no mask, or fell off.
        touched: what the open gripper touched on its way in.
        reason: for NOTHING the method's reason; for REFUSED the robot's.
        robot_s: simulated seconds.
        family: of the object.
        score: of the proposal.
    """

    object_id: int
    family: str
    outcome: str
    touched: list[str] = field(default_factory=list)
    reason: str = ""
    robot_s: float = 0.0
    score: float = 0.0


def draw_world(kind: SceneKind, index: int) -> tuple[World, Split]:
    """Scene number `index` of a kind; even ones have trained families, odd ones families never trained on."""
    split: Split = "test_unseen" if index % 2 else "test_trained"
    objects, support = KINDS[kind]
    return make_world(FIRST_SEED + index, split, kind, objects=objects, support=support), split


def draw_mount(world: World, rng: np.random.Generator) -> tuple[CameraMount, np.ndarray]:
    """A fixed camera 0.6 to 0.8 m from the objects, 50 to 80 degrees above them, and its intrinsics."""
    middle = np.mean([item.pose[:3, 3] for item in world.objects], axis=0) * [1, 1, 0] + [0, 0, 30]
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(50, 80))
    outward = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    pose = look_at(middle + rng.uniform(600, 800) * outward, middle, rng.normal(0, 0.1))
    pose[:3, 3] /= 1000
    focal = rng.uniform(560, 640)
    intrinsics = np.array([[focal, 0, (WIDTH - 1) / 2], [0, focal, (HEIGHT - 1) / 2], [0, 0, 1]])
    return CameraMount(pose), intrinsics


@dataclass(frozen=True, eq=False)
class Scene:
    """A fresh copy of a seeded scene with its robot.

    Attributes:
        intrinsics: (3, 3) pixels, of the camera.
        seed: of the camera's noise.
        families: shape family by object.
    """

    robot: SimulatedRobot
    intrinsics: np.ndarray
    seed: int
    split: Split
    families: dict[int, str]


def draw_scene(kind: SceneKind, index: int) -> Scene:
    """Scene number `index` of a kind, the same for every method."""
    world, split = draw_world(kind, index)
    rng = np.random.default_rng((FIRST_SEED, index, list(KINDS).index(kind)))
    mount, intrinsics = draw_mount(world, rng)
    families = {item.object_id: item.family for item in world.objects}
    return Scene(SimulatedRobot(world, mount), intrinsics, int(rng.integers(1 << 31)), split, families)


def work_through(kind: SceneKind, index: int, method: Method) -> dict[str, Any]:
    """A fresh copy of the scene, one attempt per object, best proposal first, a new frame before every attempt.

    Returns:
        A record for the results file: the attempts in order, simulated and perception seconds.
    """
    scene = draw_scene(kind, index)
    robot, families = scene.robot, scene.families
    attempts: list[Attempt] = []
    reasons: dict[int, str] = {}
    perception, frames = 0.0, 0
    with RobotCamera(robot, scene.intrinsics, scene.seed) as camera:
        while True:
            tried = {a.object_id for a in attempts} | set(robot.placed) | set(robot.lost)
            if len(tried) == len(families):
                break
            try:
                frame = camera.read()
            except FrameError:
                break  # no mask is left
            view = View(
                frame, robot.camera_pose(frame.timestamp), robot, np.random.default_rng((index, frames))
            )
            started = time.perf_counter()
            answer = method(view)
            perception += time.perf_counter() - started
            frames += 1
            reasons |= answer.reasons
            open_ = [p for p in answer.proposals if p.object_id not in tried]
            if not open_:
                break
            best = max(open_, key=lambda p: p.score)
            attempt = execute(robot, best)
            attempt.family = families[best.object_id]
            attempts.append(attempt)
    picked = set(robot.placed)
    for object_id in families:
        if object_id not in {a.object_id for a in attempts} and object_id not in picked:
            seen = object_id in reasons
            outcome = NOTHING if seen else UNSEEN
            attempts.append(
                Attempt(object_id, families[object_id], outcome, reason=reasons.get(object_id, ""))
            )
    return {
        "kind": kind, "index": index, "split": scene.split, "objects": len(families), "picked": sorted(picked),
        "robot_s": round(robot.now(), 3), "perception_s": round(perception, 4), "frames": frames,
        "attempts": [asdict(a) for a in attempts],
    }  # fmt: skip


def execute(robot: SimulatedRobot, grasp: Proposal) -> Attempt:
    """Pre-grasp, straight in, close, lift straight up, hold, to the drop zone, open; home again."""
    robot.recover()
    began = robot.now()
    attempt = Attempt(grasp.object_id, "", REFUSED, score=float(grasp.score))
    try:
        robot.grip(min(grasp.opening, MAX_OPENING_MM / 1000))
        robot.reach(withdrawn(grasp.tips, PRE_GRASP_M))
        _wait(robot)
        if not robot.state().fault:
            robot.follow(grasp.tips[None])
            _wait(robot)
        attempt.touched = sorted({touch.what for touch in robot.touched(began)})
        attempt.outcome = _take(robot, grasp, attempt) if not robot.state().fault else COLLIDED
    except MotionRefused as refusal:
        attempt.reason = str(refusal)
    if attempt.outcome in (MISSED, SLIPPED) and attempt.touched:
        attempt.outcome = COLLIDED
    _go_home(robot)
    attempt.robot_s = round(robot.now() - began, 3)
    return attempt


def _take(robot: SimulatedRobot, grasp: Proposal, attempt: Attempt) -> str:
    robot.grip(0.0)
    _wait(robot)
    if not robot.state().holding:
        return MISSED
    index = [item.object_id for item in robot.world.objects].index(grasp.object_id)
    height = robot.object_poses()[index, 2, 3]
    lifted = grasp.tips.copy()
    lifted[2, 3] += LIFT_MM / 1000
    robot.follow(lifted[None])
    _wait(robot)
    robot.sleep(_HOLD_S)
    rose = robot.object_poses()[index, 2, 3] - height
    if robot.held_object() != grasp.object_id or rose < HELD_MM or robot.state().fault:
        return SLIPPED
    robot.reach(robot.drop)
    _wait(robot)
    if robot.state().fault or robot.held_object() != grasp.object_id:
        return SLIPPED
    robot.grip(MAX_OPENING_MM / 1000)
    _wait(robot)
    robot.sleep(0.1)
    return PICKED if grasp.object_id in robot.placed else SLIPPED


def _go_home(robot: SimulatedRobot) -> None:
    """Fingers open, then out the way it came; a fault on the way back is cleared, it must end at home."""
    for _ in range(5):
        robot.recover()
        robot.grip(MAX_OPENING_MM / 1000)
        _wait(robot)
        state = robot.state()
        if np.linalg.norm(state.tips[:3, 3] - robot.home[:3, 3]) < 0.01:
            return
        back = withdrawn(state.tips, PRE_GRASP_M)
        if robot.reachable(back[None])[0]:
            robot.follow(back[None])
            _wait(robot)
        if not robot.state().fault:
            robot.reach(robot.home)
            _wait(robot)
    robot.recover()


def _wait(robot: SimulatedRobot) -> None:
    limit = robot.now() + _LONGEST_S
    while robot.state().moving:
        if robot.now() > limit:
            raise RuntimeError(f"a motion did not end within {_LONGEST_S} s")
        robot.sleep(robot.control_period)
