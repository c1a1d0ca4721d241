"""A Franka arm (Research 3, or Panda) with the Franka Hand, driven through franky and libfranka (extra `franka`).

The same code drives the real arm and one simulated by franky-sim, which speaks libfranka's protocol.

Frames. Flange -> hand is a turn by -45 degrees about z, hand -> TCP 103.4 mm along z (franka_description,
`franka_hand.xacro`); in the hand's frame z is the approach and y the direction in which the fingers move. The finger's
mesh ends 53.9 mm beyond its joint, which lies 58.4 mm from the hand's origin (same source, `finger.stl`): the tips are
112.3 mm from the flange, 8.9 mm beyond the TCP. A grasp's axes are x = approach, y = closing, hence

    tips = flange * Rz(-45 deg) * Tz(0.1123) * [z y -x]

whatever end effector is configured in Desk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.grasp.gripper import FRANKA, Gripper
from zerograsp_edge.runtime.hand_eye import HandEye, HandEyeError, checked_pose
from zerograsp_edge.runtime.robot.base import MotionRefused, RobotError, RobotState
from zerograsp_edge.runtime.robot.franka_config import FrankaConfig
from zerograsp_edge.runtime.robot.franka_link import (
    ArmSample,
    HandSample,
    Watch,
    explain,
    read_arm,
    read_hand,
    within,
)
from zerograsp_edge.runtime.robot.kinematics import ARMS, Inverse, forward, link_frames

_HALF = np.sqrt(0.5)
FLANGE_TO_TIPS = np.array(
    [
        [0.0, _HALF, -_HALF, 0.0],
        [0.0, _HALF, _HALF, 0.0],
        [1.0, 0.0, 0.0, 0.1123],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
MAX_OPENING = 0.08
# A hand that closed on nothing reads up to a millimetre or so.
_HELD_OPENING = 0.002
# Paths are checked in steps of at most this.
_STEP_M, _STEP_RAD, _STEP_JOINT = 0.01, 0.05, 0.05
# From one step of a straight line to the next no joint turns by more; a jump means another branch of the solution.
_MOST_JUMP = 0.5
_ARM_PERIOD, _HAND_PERIOD = 0.01, 0.03
# At rest is what turns by less than this for so long, rad/s and s. Of positions: measured speeds are noisy.
_REST_SPEED, _REST_S = 0.01, 0.05


class Franka:
    """A Franka arm with its hand; see `Robot`.

    Motions to a pose (`reach`) go straight in joint space, straight lines (`follow`) in Cartesian space. Before either
    begins, its whole path is checked: joint limits by inverse kinematics, and the workspace, which the tips must not
    leave. Nothing here knows about obstacles or about links that touch each other.

    After `stop`, and after a reflex of the robot, nothing moves until `recover`.

    Args:
        config: at least the host.
        hand_eye: where the camera is, for `camera_pose`; the hand of a camera on the hand is the end effector that is
            configured in Desk, whose pose libfranka calls `O_T_EE`.

    Raises:
        MissingExtra: franky is not installed.
        RobotError: no connection, or the robot's own kinematics are not those of a Panda or Research 3.
    """

    def __init__(self, config: FrankaConfig, hand_eye: HandEye | None = None) -> None:
        self.config = config
        self._franky = franky = require("franky", "franka", "drive a Franka")
        self._hand_eye = hand_eye
        self._inverse = Inverse(ARMS[config.arm], margin=config.limit_margin)
        # A straight line may use the margin: who has come into it must be able to leave.
        self._whole_range = Inverse(ARMS[config.arm], margin=0.0)
        self._closed = False
        self._stopped = False  # by stop(), until recover()
        self._fault = ""  # of a motion, until recover()
        self._settling = False  # a motion was begun, and the arm has not been seen at rest since
        self._ended: float | None = None  # when the motion's control was first seen to have ended
        self._command: threading.Thread | None = None  # of the fingers
        self._command_ended = -np.inf  # when the last one had its answer
        self._closed_to: float | None = None  # opening that the last grasp asked for
        try:
            self._arm, self._hand = within(config.connect_timeout, self._connect, f"the Franka at {config.host}")
            self._arm_watch = Watch("franka-arm", lambda: read_arm(self._arm), _ARM_PERIOD)
            self._hand_watch = Watch("franka-hand", lambda: read_hand(self._hand), _HAND_PERIOD)
            state = self._arm.state
        except franky.Exception as error:
            raise RobotError(f"no connection to the Franka at {config.host}: {explain(franky, error)}") from error
        flange_to_end_effector = np.array(state.F_T_EE.matrix, np.float64)
        self._end_effector_to_flange = np.linalg.inv(flange_to_end_effector)
        self._check_kinematics(np.array(state.q), np.array(state.O_T_EE.matrix))

    def _connect(self) -> tuple[Any, Any]:
        franky, config = self._franky, self.config
        realtime = franky.RealtimeConfig.Enforce if config.realtime else franky.RealtimeConfig.Ignore
        arm = franky.Robot(config.host, realtime_config=realtime)
        arm.relative_dynamics_factor = config.speed
        arm.set_joint_impedance(list(config.joint_impedance))
        arm.set_collision_behavior(list(config.torque_threshold), list(config.force_threshold))
        hand = franky.Gripper(config.host)
        if hand.max_width < 0.01:
            raise RobotError(
                f"the hand does not know its opening (it says {hand.max_width * 1000:.0f} mm): home it, in Desk or "
                "with franky.Gripper(host).homing()"
            )
        return arm, hand

    def _check_kinematics(self, joints: np.ndarray, end_effector: np.ndarray) -> None:
        error = np.linalg.norm((forward(joints) - end_effector @ self._end_effector_to_flange)[:3, 3])
        if error > 2e-3:
            self.close()
            raise RobotError(
                f"the robot at {self.config.host} says that its flange is {error * 1000:.1f} mm from where the "
                "kinematics of a Panda or Research 3 put it; expected one of these arms"
            )

    # -- What it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"Franka {self.config.arm} at {self.config.host}"

    @property
    def gripper(self) -> Gripper:
        return FRANKA

    @property
    def control_period(self) -> float:
        return 0.02

    def now(self) -> float:
        """`time.monotonic`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    # -- State ---------------------------------------------------------------------------------------------------

    def state(self) -> RobotState:
        self._check_open()
        self._collect()
        arm: ArmSample = self._arm_watch.last
        hand: HandSample = self._hand_watch.last
        holding = hand.grasped and self._closed_to is not None and hand.opening > self._closed_to + _HELD_OPENING
        return RobotState(
            tips=self._tips(arm),
            opening=hand.opening,
            moving=self._arm_moves() or self._fingers_move(),
            holding=holding,
            fault=self._fault_of(arm),
            time=arm.time,
        )

    def joints(self) -> np.ndarray:
        """(7,) float64: measured joint positions, rad. Raises RobotError when the robot does not answer."""
        self._check_open()
        return np.array(self._arm_watch.last.joints)

    def camera_pose(self, time: float) -> np.ndarray:
        """(4, 4) float64, base <- camera, m, at a moment of `now` within the last five seconds.

        Raises:
            RobotError: no hand-eye calibration was given, or the moment lies outside.
        """
        if self._hand_eye is None:
            raise RobotError(
                "the camera's place is not known: give Franka(hand_eye=...) the result of 'zerograsp-edge calibrate "
                "hand-eye'"
            )
        if self._hand_eye.mode == "eye-to-hand":
            return self._hand_eye.camera_in_base()
        self._check_open()
        return self._hand_eye.camera_in_base(self._end_effector_at(time))

    def _end_effector_at(self, moment: float) -> np.ndarray:
        samples: list[ArmSample] = self._arm_watch.history()
        times = np.array([sample.time for sample in samples])
        late = moment - times[-1]
        if moment < times[0] or late > 5 * _ARM_PERIOD:
            raise RobotError(
                f"where the camera was at {moment:.3f} s is not known: expected a moment of the last "
                f"{times[-1] - times[0]:.1f} s, {times[0]:.3f} to {times[-1]:.3f} s of the robot's clock"
            )
        after = min(int(np.searchsorted(times, moment)), len(times) - 1)
        if after == 0:
            return samples[0].end_effector
        share = min(1.0, (moment - times[after - 1]) / max(times[after] - times[after - 1], 1e-9))
        before, behind = samples[after - 1].end_effector, samples[after].end_effector
        mean = (1 - share) * before + share * behind
        # The rotation nearest to the mean of two that are a hundredth of a second apart.
        u, _, vt = np.linalg.svd(mean[:3, :3])
        mean[:3, :3] = u @ vt
        return mean

    def _tips(self, arm: ArmSample) -> np.ndarray:
        return arm.end_effector @ self._end_effector_to_flange @ FLANGE_TO_TIPS

    def _arm_moves(self) -> bool:
        """Whether a motion is controlled, or the arm still comes to rest after one."""
        if self._arm.is_in_control:
            self._ended = None
            return True
        if self._settling:
            self._ended = time.monotonic() if self._ended is None else self._ended
            since = max(self._ended, time.monotonic() - 3 * _REST_S)
            samples: list[ArmSample] = [s for s in self._arm_watch.history() if s.time >= since]
            if samples and samples[-1].time - samples[0].time >= _REST_S:
                turned = np.abs(samples[-1].joints - samples[0].joints).max()
                self._settling = bool(turned > _REST_SPEED * (samples[-1].time - samples[0].time))
        return self._settling

    def _fingers_move(self) -> bool:
        """Whether a command is under way, or no state of the hand has come since it ended."""
        if self._command is None:
            return False
        if self._command.is_alive():
            return True
        newest: HandSample = self._hand_watch.history()[-1]
        return newest.time <= self._command_ended

    def _fault_of(self, arm: ArmSample) -> str:
        """Why nothing moves until `recover`; empty if something may."""
        if arm.mode == "UserStopped":
            return "the user stop (external activation device) is pressed"
        if arm.errors or arm.mode == "Reflex":
            return f"the robot stopped itself: {arm.errors or 'reflex'}"
        if arm.mode in ("Guiding", "AutomaticErrorRecovery", "Other"):
            return f"the robot is in mode {arm.mode}, not ready for motions"
        return self._fault or ("stopped" if self._stopped else "")

    def _collect(self) -> None:
        """Take note of how the last motion ended; franky keeps its exception until somebody asks."""
        if self._arm.is_in_control:
            return
        try:
            self._arm.join_motion(0.0)
        except Exception as error:
            # A stop preempts the motion, which libfranka reports as an error of the motion.
            if not self._stopped:
                self._fault = f"a motion was aborted: {explain(self._franky, error)}"

    # -- Motion --------------------------------------------------------------------------------------------------

    def reachable(self, tips: np.ndarray) -> np.ndarray:
        tips = np.asarray(tips, np.float64)
        return self._inverse.reachable(tips @ np.linalg.inv(FLANGE_TO_TIPS)) & self._in_workspace(tips[:, :3, 3])

    def reach(self, tips: np.ndarray, speed: float = 1.0) -> None:
        arm = self._ready(speed)
        goal = self._checked(tips, "the pose")
        joints = self._inverse.nearest(goal @ np.linalg.inv(FLANGE_TO_TIPS), arm.joints)
        if joints is None:
            raise MotionRefused(f"{_place(goal)} is out of reach of the arm within its joint limits; nothing has moved")
        self._check_joint_path(arm, joints)
        franky = self._franky
        waypoint = franky.JointWaypoint(joints.tolist())
        self._begin(franky.JointWaypointMotion([waypoint], relative_dynamics_factor=speed))

    def follow(self, path: np.ndarray, speed: float = 1.0) -> None:
        arm = self._ready(speed)
        if np.ndim(path) != 3 or len(path) == 0:
            raise MotionRefused(f"the path must be poses (n, 4, 4), at least one, got shape {np.shape(path)}")
        poses = [self._checked(pose, f"pose {i} of the path") for i, pose in enumerate(path)]
        self._check_straight_path(arm, poses)
        franky = self._franky
        to_end_effector = np.linalg.inv(FLANGE_TO_TIPS) @ np.linalg.inv(self._end_effector_to_flange)
        waypoints = [franky.CartesianWaypoint(franky.Affine(pose @ to_end_effector)) for pose in poses]
        self._begin(franky.CartesianWaypointMotion(waypoints, relative_dynamics_factor=speed))

    def grip(self, opening: float, force: float | None = None) -> None:
        """Start moving the fingers; see `Robot.grip`.

        Closing completely, or with a force, is a grasp: the fingers go until they meet something, or the opening, and
        keep pressing. Any other opening is a motion to that opening.
        """
        self._check_open()
        if not np.isfinite(opening) or not 0 <= opening <= MAX_OPENING + 1e-6:
            raise MotionRefused(f"expected an opening of 0 to {MAX_OPENING} m, got {opening}; nothing has moved")
        if force is not None and not 0 < force <= 70:
            raise MotionRefused(f"expected a force over 0 and up to 70 N, got {force}; nothing has moved")
        self._check_idle(self._arm_watch.last)
        if self._fingers_move():
            raise MotionRefused("the fingers are still moving; wait until they are done, or stop()")
        opening, speed = min(float(opening), MAX_OPENING), self.config.finger_speed
        if opening == 0 or force is not None:
            strength = self.config.grip_force if force is None else float(force)
            self._closed_to = opening
            # Any opening counts as grasped for the hand; `state` tells something held from nothing.
            self._run_fingers(lambda: self._hand.grasp(opening, speed, strength, MAX_OPENING, MAX_OPENING))
        else:
            self._closed_to = None
            self._run_fingers(lambda: self._hand.move(opening, speed))

    def stop(self) -> None:
        """Halt; see `Robot.stop`. It takes effect in the control unit, not by way of the running motion.

        Fingers under way halt as soon as libfranka sends the command: while it waits for the hand's answer to the
        motion it holds the connection most of the time. In simulation that took 13 to 185 ms.
        """
        if self._closed:
            return
        self._stopped = True
        with contextlib.suppress(Exception):
            self._arm.stop()
        # The hand lets go when a finished grasp is stopped, so only fingers that are on their way are.
        if self._fingers_move() and not self._fingers_press():
            threading.Thread(target=self._stop_hand, name="franka-hand-stop", daemon=True).start()

    def recover(self) -> None:
        """Clear a fault or a stop; see `Robot.recover`."""
        self._check_open()
        arm: ArmSample = self._arm_watch.last
        if arm.mode == "UserStopped":
            raise RobotError("the user stop (external activation device) is pressed: release it, then recover again")
        # A motion that has been stopped takes a moment to end.
        deadline = time.monotonic() + 1.0
        while self._arm.is_in_control:
            if time.monotonic() > deadline or not self._stopped:
                raise RobotError("a motion is still under way: stop() first, then recover")
            time.sleep(0.005)
        self._collect()
        if arm.errors or arm.mode == "Reflex":
            try:
                cleared = self._arm.recover_from_errors()
            except Exception as error:
                raise RobotError(f"the robot does not recover: {explain(self._franky, error)}") from error
            if not cleared:
                raise RobotError(
                    f"the robot does not recover from {arm.errors or 'its reflex'}; move it out of the limit or the "
                    "contact by hand, or look into Desk"
                )
            self._await_mode()
        self._fault, self._stopped = "", False

    def close(self) -> None:
        if self._closed:
            return
        self.stop()
        self._closed = True
        for watch in (getattr(self, "_arm_watch", None), getattr(self, "_hand_watch", None)):
            if watch is not None:
                watch.close()
        with contextlib.suppress(Exception):
            self._arm.join_motion(2.0)
        if self._command is not None:
            self._command.join(2.0)
        # Their destructors disconnect.
        del self._arm, self._hand

    def __enter__(self) -> Franka:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- Checks and commands -------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RobotError(f"{self.name} has been closed; make a new one")

    def _ready(self, speed: float) -> ArmSample:
        """The arm's state, if a motion may begin."""
        self._check_open()
        if not np.isfinite(speed) or not 0 < speed <= 1:
            raise MotionRefused(f"expected a speed over 0 and up to 1, got {speed}; nothing has moved")
        arm: ArmSample = self._arm_watch.last
        self._check_idle(arm)
        return arm

    def _check_idle(self, arm: ArmSample) -> None:
        self._collect()
        fault = self._fault_of(arm)
        if fault:
            raise MotionRefused(f"{fault}; nothing moves until recover()")
        if self._arm.is_in_control:
            raise MotionRefused("the arm is still moving; wait until it is done, or stop()")

    def _checked(self, pose: np.ndarray, name: str) -> np.ndarray:
        try:
            checked = checked_pose(pose, name)
        except HandEyeError as error:
            raise MotionRefused(f"{error}; nothing has moved") from error
        if not self._in_workspace(checked[None, :3, 3])[0]:
            box = self.config.workspace
            raise MotionRefused(
                f"{_place(checked)} lies outside the workspace, {box.low} to {box.high} m; nothing has moved"
            )
        return checked

    def _in_workspace(self, points: np.ndarray) -> np.ndarray:
        return self._outside(points) <= 0

    def _outside(self, points: np.ndarray) -> np.ndarray:
        """(...) how far points (..., 3) lie outside the workspace, m; at most 0 inside."""
        box = self.config.workspace
        return np.maximum(np.asarray(box.low) - points, points - np.asarray(box.high)).max(axis=-1)

    def _check_joint_path(self, arm: ArmSample, goal: np.ndarray) -> None:
        steps = max(2, int(np.ceil(np.abs(goal - arm.joints).max() / _STEP_JOINT)) + 1)
        path = arm.joints + np.linspace(0, 1, steps)[:, None] * (goal - arm.joints)
        frames = link_frames(path)
        tips = (frames[:, 7] @ FLANGE_TO_TIPS)[:, :3, 3]
        outside = self._outside(tips)
        # Whoever starts outside, because a hand has moved the arm there, may come in.
        worst = int(np.argmax(outside))
        if outside[worst] > max(0.0, float(outside[0])) + 1e-3:
            raise MotionRefused(
                f"on the way to the pose the tips would leave the workspace at {_numbers(tips[worst])} m; go there by "
                "way of a pose in between, or straight with follow(); nothing has moved"
            )
        lowest = float(frames[:, 3:, 2, 3].min())
        if lowest < self.config.workspace.low[2] and lowest < float(frames[0, 3:, 2, 3].min()) - 1e-3:
            raise MotionRefused(
                f"on the way to the pose the elbow or wrist would go below the workspace, to {lowest:.3f} m; choose "
                "another pose; nothing has moved"
            )

    def _check_straight_path(self, arm: ArmSample, poses: list[np.ndarray]) -> None:
        joints, here = arm.joints, self._tips(arm)
        for number, goal in enumerate(poses):
            for pose in _between(here, goal):
                found = self._whole_range.solutions_around(pose @ np.linalg.inv(FLANGE_TO_TIPS), float(joints[6]))
                jumps = np.abs(found - joints).max(axis=1)
                if len(found) == 0 or jumps.min() > _MOST_JUMP:
                    raise MotionRefused(
                        f"the straight line to pose {number} leaves the arm's reach, or cannot be followed without "
                        f"folding the arm over, at {_place(pose)} with the joints at {_numbers(joints)} rad; "
                        "reach() its end instead; nothing has moved"
                    )
                joints = found[np.argmin(jumps)]
            here = goal

    def _begin(self, motion: Any) -> None:
        self._settling, self._ended = True, None
        try:
            self._arm.move(motion, asynchronous=True)
        except Exception as error:
            self._settling = False
            raise MotionRefused(f"{explain(self._franky, error)}; nothing has moved") from error
        if self._stopped:
            # A stop came while the motion was being prepared.
            with contextlib.suppress(Exception):
                self._arm.stop()
            raise MotionRefused("stopped; nothing moves until recover()")

    def _run_fingers(self, command: Callable[[], bool]) -> None:
        def work() -> None:
            try:
                command()
            except Exception as error:
                if not self._stopped:
                    self._fault = f"the hand failed: {explain(self._franky, error)}"
            self._command_ended = time.monotonic()

        # A thread of ours, and a daemon: franky's own futures are waited for at exit, even of a hand that is gone.
        self._command = threading.Thread(target=work, name="franka-fingers", daemon=True)
        self._command.start()
        if self._stopped:
            # A stop came in between.
            self._stop_hand()
            raise MotionRefused("stopped; nothing moves until recover()")

    def _fingers_press(self) -> bool:
        """Whether a grasp under way has met something: its fingers are short of the opening and stand still."""
        samples: list[HandSample] = self._hand_watch.history()[-4:]
        openings = [sample.opening for sample in samples]
        return (
            self._closed_to is not None
            and openings[-1] > self._closed_to + _HELD_OPENING
            and max(openings) - min(openings) < 5e-4
        )

    def _stop_hand(self) -> None:
        with contextlib.suppress(Exception):
            self._hand.stop()

    def _await_mode(self) -> None:
        """The robot needs a moment from the recovery to the next state without errors."""
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            arm: ArmSample = self._arm_watch.last
            if not arm.errors and arm.mode == "Idle":
                return
            time.sleep(self.control_period)
        raise RobotError(f"the robot is not ready after its recovery: mode {arm.mode}, errors: {arm.errors or 'none'}")


def _between(start: np.ndarray, goal: np.ndarray) -> list[np.ndarray]:
    """Poses from start (left out) to goal (4, 4), in steps of at most 10 mm and 0.05 rad."""
    turn = start[:3, :3].T @ goal[:3, :3]
    angle = float(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    distance = float(np.linalg.norm(goal[:3, 3] - start[:3, 3]))
    steps = max(1, int(np.ceil(max(distance / _STEP_M, angle / _STEP_RAD))))
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    length = float(np.linalg.norm(axis))
    poses = []
    for step in range(1, steps):
        share = step / steps
        pose = goal.copy()
        pose[:3, 3] = start[:3, 3] + share * (goal[:3, 3] - start[:3, 3])
        # Half a turn has no direction; franky takes one of the two, and so may the check take the goal's.
        if length > 1e-6:
            pose[:3, :3] = start[:3, :3] @ _rotation(axis / length, share * angle)
        poses.append(pose)
    return [*poses, goal]


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) turn about a unit axis, by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _place(pose: np.ndarray) -> str:
    return f"the pose at {_numbers(pose[:3, 3])} m"


def _numbers(vector: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in vector) + ")"
