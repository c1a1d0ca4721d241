"""A robot without an arm: the free MuJoCo gripper in a world of objects, in simulated time.

The gripper hangs on a pose that is moved along straight lines; fingers, contacts and objects are physics. The open
gripper pushes what it touches (`touched` says what that was), and halts with a fault where it is pushed harder than
`force_limit`, as an arm with force sensing does. The world goes on from pick to pick. What is let go inside the drop
zone is taken out of the world, and so is what falls off the table.

The hand is `gripper.SIMULATED`: fingers 60 mm long, whatever the depth of a grasp. On a straight way in they sweep the
same space as the shorter fingers that training labels and `simulation.gripper.GraspTrials` give to shallow grasps; the
palm stays farther back. As there, the palm is as wide as the gripper is open.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zerograsp_edge.runtime.grasp.constraints import Workspace
from zerograsp_edge.runtime.grasp.gripper import SIMULATED, Gripper
from zerograsp_edge.runtime.robot.base import MotionRefused, RobotError, RobotState, withdrawn
from zerograsp_edge.runtime.simulation.gripper import (
    BASE,
    FINGERS,
    GRIP_FORCE_N,
    MAX_DEPTH_MM,
    MAX_OPENING_MM,
    PAST_CLOSED_MM,
    PEAK_SPEED,
    TIMESTEP_S,
    MountedGripper,
    add_gripper,
    smooth,
)
from zerograsp_edge.runtime.simulation.physics import MM, body_name, load_mujoco, object_poses, world_spec
from zerograsp_edge.runtime.simulation.world import SupportBox, World

LINEAR_SPEED, ANGULAR_SPEED = 0.7, 2.0  # m/s and rad/s, the greatest of a motion at full speed
FINGER_SPEED = 0.13  # m/s, each
TRANSIT_M = 0.05  # free motions keep so far from whatever is highest, or foremost in a shelf
CONTROL_PERIOD = 5 * TIMESTEP_S
_SQUEEZE_S = 0.15  # after the fingers were told to arrive
_BLOCKED_M = 0.0005  # a finger so far from where it should be presses on something
_LOST_M = -0.25  # centres below have fallen off
_HISTORY_S = 60.0
_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class CameraMount:
    """Where the camera is fixed.

    Attributes:
        pose: (4, 4) m, base <- camera optical frame, or tips <- camera with `on_hand`.
        on_hand: whether it moves with the gripper.
    """

    pose: np.ndarray
    on_hand: bool = False


@dataclass
class Touch:
    """One uninterrupted contact of the gripper.

    Attributes:
        first, last: seconds of `now`.
        what: `object_<id>`, or `support_<k>`.
        force: greatest sum of the contacts' forces in a control period, N.
    """

    first: float
    last: float
    what: str
    force: float


@dataclass(frozen=True, eq=False)
class _Leg:
    """A straight motion from rest to rest, of the base's pose."""

    start: np.ndarray
    end: np.ndarray
    turn: np.ndarray  # (3,) rotation vector, in the start's frame
    seconds: float

    @classmethod
    def between(cls, start: np.ndarray, end: np.ndarray, speed: float) -> _Leg:
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_matrix(start[:3, :3].T @ end[:3, :3]).as_rotvec()
        way, angle = np.linalg.norm(end[:3, 3] - start[:3, 3]), np.linalg.norm(turn)
        seconds = PEAK_SPEED / speed * max(way / LINEAR_SPEED, angle / ANGULAR_SPEED)
        return cls(start, end, turn, float(seconds))

    def at(self, seconds: float) -> np.ndarray:
        from scipy.spatial.transform import Rotation

        if seconds >= self.seconds:
            return self.end
        share = smooth(seconds / self.seconds)
        pose = self.start.copy()
        pose[:3, 3] += share * (self.end[:3, 3] - self.start[:3, 3])
        pose[:3, :3] = self.start[:3, :3] @ Rotation.from_rotvec(share * self.turn).as_matrix()
        return pose


class SimulatedRobot:
    """Implements `Robot`. Its base frame is the world's, in metres: z = 0 carries the objects, z is up.

    Args:
        world: objects at rest.
        camera: where the camera is; None: `camera_pose` raises.
        home: (4, 4) of the tips to begin with; by default over the drop zone.
        drop: (3,) m, the middle of the drop zone: tips there let go into it.
        drop_half: half its edge in x and y, m; it is a column without top or bottom.
        workspace: the tips stay inside; everything else is not reachable.
        force_limit: N; pushed harder, the robot halts with a fault.

    Raises:
        MissingExtra: no MuJoCo (extra `sim`).
    """

    name = "simulated"
    gripper: Gripper = SIMULATED
    control_period = CONTROL_PERIOD

    def __init__(
        self,
        world: World,
        camera: CameraMount | None = None,
        *,
        home: np.ndarray | None = None,
        drop: Sequence[float] = (0.0, 0.55, 0.3),
        drop_half: float = 0.12,
        workspace: Workspace | None = None,
        force_limit: float = 60.0,
    ) -> None:
        mujoco = load_mujoco()
        self.world, self.camera_mount, self.force_limit = world, camera, force_limit
        self.workspace = workspace or Workspace((-0.75, -0.75, -0.02), (0.75, 0.75, 0.8))
        self.drop = np.eye(4)
        self.drop[:3, :3], self.drop[:3, 3] = _DOWN, drop
        self.drop_half = drop_half
        self.home = self.drop.copy() if home is None else np.array(home, np.float64)
        self._check_tips(self.home[None])
        spec = world_spec(world, timestep=TIMESTEP_S)
        add_gripper(spec)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._hand = MountedGripper(self.model, self.data)
        self._hand.set_finger_depth(MAX_DEPTH_MM)
        half = MAX_OPENING_MM / 2 * MM
        self._hand.place(withdrawn(self.home, MAX_DEPTH_MM * MM), half)
        self.data.ctrl[:] = half
        mujoco.mj_forward(self.model, self.data)
        self._bodies = {o.object_id: self.model.body(body_name(o.object_id)).id for o in world.objects}
        # What free motions keep away from: above a table or bin, in front of a shelf.
        self._away = np.array([0.0, -1.0, 0.0] if world.support_kind == "shelf" else [0.0, 0.0, 1.0])
        self._farthest = max(
            float(self._away @ box.centre) + float(np.abs(self._away @ box.rotation) @ box.half)
            for box in world.support
        ) * MM  # fmt: skip
        self.placed: list[int] = []
        self.lost: list[int] = []
        self.touches: list[Touch] = []
        self._legs: deque[_Leg] = deque()
        self._leg_began = 0.0
        self._fingers = (half, half, 0.0, 0.0)  # from, to, began, seconds
        self._fault = ""
        self._stop = threading.Event()
        self._push_limit = force_limit
        self._debt = 0.0
        self._history: deque[tuple[float, np.ndarray]] = deque(maxlen=round(_HISTORY_S / CONTROL_PERIOD))
        self._look()

    def now(self) -> float:
        return float(self.data.time)

    def sleep(self, seconds: float) -> None:
        """The world goes on by whole time steps; what is less is kept for the next call."""
        self._debt += max(seconds, 0.0)
        steps = int(self._debt / TIMESTEP_S + 1e-6)
        self._debt -= steps * TIMESTEP_S
        mujoco = load_mujoco()
        for _ in range(steps):
            self._drive()
            mujoco.mj_step(self.model, self.data)
            if self.now() >= self._looked + CONTROL_PERIOD - TIMESTEP_S / 2:
                self._look()

    def state(self) -> RobotState:
        start, goal, began, duration = self._fingers
        arriving = self.now() < began + duration + _SQUEEZE_S
        closing = goal < start
        return RobotState(
            tips=self._tips(),
            opening=self._hand.opening,
            moving=bool(self._legs) or arriving,
            holding=closing and not arriving and self._hand.opening - 2 * goal > 2 * _BLOCKED_M,
            fault=self._fault,
            time=self.now(),
        )

    def camera_pose(self, time: float) -> np.ndarray:
        if self.camera_mount is None:
            raise RobotError("this robot was made without a camera: give it a CameraMount")
        if not self.camera_mount.on_hand:
            return np.array(self.camera_mount.pose, np.float64)
        for moment, tips in reversed(self._history):
            if abs(moment - time) <= CONTROL_PERIOD:
                return tips @ self.camera_mount.pose
        raise RobotError(
            f"the camera's pose at {time:.3f} s is not known: the robot remembers "
            f"{self._history[0][0]:.3f} to {self._history[-1][0]:.3f} s"
        )

    def reachable(self, tips: np.ndarray) -> np.ndarray:
        """(n,) bool: inside the workspace. There is no arm that could be in the way."""
        where = np.asarray(tips, np.float64)[:, :3, 3]
        return np.all((where >= self.workspace.low) & (where <= self.workspace.high), axis=1)

    def reach(self, tips: np.ndarray, speed: float = 1.0) -> None:
        """Back to where nothing stands (up; in front of a shelf), across, and straight to the pose."""
        goal = np.asarray(tips, np.float64)[None]
        start = self._check_motion(goal, speed)
        clear = self._clear_level()
        away, across = start.copy(), goal[0].copy()
        for pose in (away, across):
            pose[:3, 3] += max(clear - float(self._away @ pose[:3, 3]), 0.0) * self._away
        self._begin(start, [away, across, goal[0]], speed)

    def follow(self, path: np.ndarray, speed: float = 1.0) -> None:
        poses = np.asarray(path, np.float64)
        self._begin(self._check_motion(poses, speed), list(poses), speed)

    def grip(self, opening: float, force: float | None = None) -> None:
        """Both fingers at FINGER_SPEED; closed, they press with `force` each, by default GRIP_FORCE_N."""
        self._check_free()
        most = MAX_OPENING_MM * MM
        if not 0 <= opening <= most + 1e-6:
            raise MotionRefused(f"opening: expected 0 to {most} m, got {opening}")
        force = GRIP_FORCE_N if force is None else force
        if not 0 < force <= 200:
            raise MotionRefused(f"force: expected over 0 to 200 N, got {force}")
        for actuator in self._hand.actuators:
            self.model.actuator_forcerange[actuator] = (-force, force)
        start, goal = self._hand.opening / 2, opening / 2
        self._fingers = (start, goal, self.now(), abs(goal - start) / FINGER_SPEED)

    def stop(self) -> None:
        self._stop.set()

    def recover(self) -> None:
        if self._stop.is_set() and not self._fault:
            self._halt("stopped")  # the period is not over yet
        self._stop.clear()
        self._fault = ""

    def close(self) -> None:
        """Nothing is held open."""
        self.stop()

    def object_poses(self) -> np.ndarray:
        """(objects, 4, 4) float64 world <- object, mm, in the order of the world's objects, also of absent ones."""
        return object_poses(self.model, self.data, self.world)

    def present(self) -> np.ndarray:
        """(objects,) bool: neither placed nor lost."""
        gone = {*self.placed, *self.lost}
        return np.array([item.object_id not in gone for item in self.world.objects])

    def held_object(self) -> int | None:
        """The object that touches both fingers: the simulator's knowledge, to judge by, not to control with."""
        return next((i for i, body in self._bodies.items() if self._hand.grips(body)), None)

    def touched(self, since: float) -> list[Touch]:
        """Contacts of the gripper that went on at or after a moment of `now`."""
        return [touch for touch in self.touches if touch.last >= since]

    def gripper_boxes(self) -> list[SupportBox]:
        """Palm and fingers as they are now, mm, for drawing."""
        boxes = []
        for name in (BASE, *FINGERS):
            geom = self.model.geom(name).id
            rotation = self.data.geom_xmat[geom].reshape(3, 3).copy()
            boxes.append(
                SupportBox(self.data.geom_xpos[geom] / MM, self.model.geom_size[geom] / MM, rotation)
            )
        return boxes

    def _tips(self) -> np.ndarray:
        return withdrawn(self._hand.pose(), -MAX_DEPTH_MM * MM)

    def _check_tips(self, poses: np.ndarray) -> None:
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses) or not np.isfinite(poses).all():
            raise MotionRefused(f"expected finite poses (n, 4, 4), got shape {poses.shape}")
        turns = poses[:, :3, :3]
        error = np.abs(turns.transpose(0, 2, 1) @ turns - np.eye(3)).max()
        if error > 1e-3 or (np.linalg.det(turns) < 0).any():
            raise MotionRefused(f"expected rigid poses, got one whose R^T R misses the identity by {error:g}")
        outside = np.flatnonzero(~self.reachable(poses))
        if len(outside):
            raise MotionRefused(
                f"out of reach: {poses[outside[0], :3, 3].round(3).tolist()} m is outside the workspace "
                f"{self.workspace.low} to {self.workspace.high}"
            )

    def _check_motion(self, poses: np.ndarray, speed: float) -> np.ndarray:
        """The tips' present target; raises MotionRefused."""
        self._check_free()
        if self._legs:
            raise MotionRefused("the robot is moving; stop it or wait")
        if not 0 < speed <= 1:
            raise MotionRefused(f"speed: expected over 0 to 1, got {speed}")
        self._check_tips(poses)
        return withdrawn(self._hand.target, -MAX_DEPTH_MM * MM)

    def _check_free(self) -> None:
        if self._fault or self._stop.is_set():
            raise MotionRefused(f"the robot does not move: {self._fault or 'stopped'}; recover first")

    def _begin(self, start: np.ndarray, path: Sequence[np.ndarray], speed: float) -> None:
        poses = [withdrawn(pose, MAX_DEPTH_MM * MM) for pose in (start, *path)]
        legs = (_Leg.between(a, b, speed) for a, b in pairwise(poses))
        self._legs = deque(leg for leg in legs if leg.seconds > 0)
        # A motion may begin where the last one was halted: the push may not grow.
        self._push_limit = max(self.force_limit, self._push)
        self._leg_began = self.now()

    def _clear_level(self) -> float:
        """Where along `_away` the tips pass everything, also with the object they hold; m."""
        highest, hanging = self._farthest, 0.0
        for item, present in zip(self.world.objects, self.present(), strict=True):
            body, radius = self._bodies[item.object_id], item.shape.bounding_radius * MM
            level = float(self._away @ self.data.xpos[body])
            if self._hand.grips(body):
                hanging = float(self._away @ self._tips()[:3, 3]) - level + radius
            elif present:
                highest = max(highest, level + radius)
        return highest + max(hanging, 0.0) + TRANSIT_M

    def _drive(self) -> None:
        """Targets of gripper and fingers for the next time step."""
        now = self.now() + TIMESTEP_S
        while self._legs and now - self._leg_began >= self._legs[0].seconds:
            leg = self._legs.popleft()
            self._hand.target = leg.end
            self._leg_began += leg.seconds
        if self._legs:
            self._hand.target = self._legs[0].at(now - self._leg_began)
        start, goal, began, duration = self._fingers
        if now < began + duration:
            self.data.ctrl[:] = start + (now - began) / duration * (goal - start)
        elif goal < start and self._hand.opening / 2 - goal > _BLOCKED_M:
            self.data.ctrl[:] = goal - PAST_CLOSED_MM * MM  # something is in between: press
        else:
            self.data.ctrl[:] = goal

    def _look(self) -> None:
        """Once per control period: stop, forces, the palm's width, objects that have left."""
        self._looked = self.now()
        self._history.append((self._looked, self._tips()))
        self._hand.open_palm(float(np.clip(self._hand.opening / MM, 0, MAX_OPENING_MM)))
        push = self._push = self._feel()
        if self._stop.is_set() and not self._fault:
            self._halt("stopped")
        elif push > self._push_limit and self._legs:
            touching = ", ".join(t.what for t in self.touches if t.last == self._looked)
            self._halt(f"pushed with {push:.0f} N by {touching}, more than {self.force_limit:g} N")
        for object_id, body in self._bodies.items():
            if object_id in self.placed or object_id in self.lost:
                continue
            where = self.data.xpos[body]
            dropped = (np.abs(where[:2] - self.drop[:2, 3]) < self.drop_half).all()
            if dropped and body not in self._touching:
                self._take_out(object_id, body, self.placed)
            elif where[2] < _LOST_M:
                self._take_out(object_id, body, self.lost)

    def _feel(self) -> float:
        """Notes what the gripper touches; the force on all of it together, N: what an arm's wrist would feel."""
        mujoco, model, data = load_mujoco(), self.model, self.data
        net, wrench = np.zeros(3), np.zeros(6)
        each: dict[str, float] = {}
        self._touching: set[int] = set()
        for index, a, b, _ in self._hand.contacts():
            other = self._hand.other(a, b)
            mujoco.mj_contactForce(model, data, index, wrench)
            # Row by row the contact's axes, the first from the first geom to the second.
            force = data.contact.frame[index].reshape(3, 3).T @ wrench[:3]
            net += force if other == a else -force
            body = int(model.geom_bodyid[other])
            self._touching.add(body)
            name = model.body(body).name if body else model.geom(other).name
            each[name] = each.get(name, 0.0) + float(np.linalg.norm(force))
        for name, force in each.items():
            if force == 0.0:
                continue
            for touch in reversed(self.touches):
                if touch.what == name and touch.last >= self._looked - 1.5 * CONTROL_PERIOD:
                    touch.last, touch.force = self._looked, max(touch.force, force)
                    break
            else:
                self.touches.append(Touch(self._looked, self._looked, name, force))
        return float(np.linalg.norm(net))

    def _halt(self, fault: str) -> None:
        """Stay here; fingers that press go on pressing."""
        self._fault = fault
        self._legs.clear()
        self._hand.target = self._hand.pose()
        start, goal, began, duration = self._fingers
        half = self._hand.opening / 2
        if self.now() < began + duration and not (goal < start and self.held_object() is not None):
            self._fingers = (half, half, self.now(), 0.0)

    def _take_out(self, object_id: int, body: int, where: list[int]) -> None:
        """Far away, weightless, without contacts: a compiled model cannot lose a body."""
        where.append(object_id)
        model, data = self.model, self.data
        geoms = np.flatnonzero(model.geom_bodyid == body)
        model.geom_contype[geoms] = model.geom_conaffinity[geoms] = 0
        model.body_gravcomp[body] = 1.0
        joint = model.joint(body_name(object_id))
        data.qpos[joint.qposadr[0] : joint.qposadr[0] + 3] = (5.0 + object_id, 0.0, 0.0)
        data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
