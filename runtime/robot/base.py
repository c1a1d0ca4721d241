"""What the grasp loop asks of a robot.

Poses are those of the *tips*: a frame midway between the finger tips with the axes of a grasp (x = approach, from the
palm to the tips; y = closing direction; z = height), in metres, in the robot's base frame. A grasp of depth d at pose P
is executed with the tips at P moved by d along its x axis (`tips_of`). What lies between this frame and the flange is
the implementation's business.

Every motion is started and returns at once; the caller polls `state` once per `control_period` and may `stop` at any
time. So a stop signal, a timeout or a frozen camera is noticed within one period, whatever the robot is doing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.grasp.gripper import Gripper
from zerograsp_edge.runtime.result import Grasps


class RobotError(ZeroGraspError, RuntimeError):
    """The robot cannot do, or has stopped doing, what was asked of it."""


class MotionRefused(RobotError):
    """A motion was not begun: out of reach, in collision, or the robot is in a fault. Nothing has moved."""


@dataclass(frozen=True, eq=False)
class RobotState:
    """The robot at one moment.

    Attributes:
        tips: (4, 4) float64, base <- tips, m.
        opening: between the fingers' inner faces, m.
        moving: whether a motion of the arm or of the gripper is under way.
        holding: what the gripper itself reports: whether something is between its fingers; None if it cannot tell.
        fault: why the robot will not move until `recover`; empty without a fault.
        time: of the state, seconds of `Robot.now`.
    """

    tips: np.ndarray
    opening: float
    moving: bool
    holding: bool | None
    fault: str
    time: float


@runtime_checkable
class Robot(Protocol):
    """A robot arm with a parallel gripper. `stop` may be called from any thread, everything else from one.

    Attributes:
        name: for logs.
        gripper: its geometry, which refinement and collision checks use.
        control_period: seconds between two looks at the state.
    """

    @property
    def name(self) -> str: ...

    @property
    def gripper(self) -> Gripper: ...

    @property
    def control_period(self) -> float: ...

    def now(self) -> float:
        """Seconds of a clock that never goes back: the machine's monotonic clock, or simulated time."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a simulated robot lets its world go on meanwhile."""
        ...

    def state(self) -> RobotState:
        """Raises RobotError when the robot does not answer."""
        ...

    def camera_pose(self, time: float) -> np.ndarray:
        """(4, 4) float64, base <- camera optical frame, m, at a moment of `now`.

        Raises:
            RobotError: the pose at that time is not known.
        """
        ...

    def reachable(self, tips: np.ndarray) -> np.ndarray:
        """(n,) bool for (n, 4, 4) poses: whether the arm has a joint position for each, by inverse kinematics."""
        ...

    def reach(self, tips: np.ndarray, speed: float = 1.0) -> None:
        """Start moving to a pose (4, 4) on a path of the robot's choice.

        Args:
            speed: share of the robot's configured speed, over 0 to 1.

        Raises:
            MotionRefused: and nothing moves.
        """
        ...

    def follow(self, path: np.ndarray, speed: float = 1.0) -> None:
        """Start moving in straight lines through poses (n, 4, 4), from where the tips are now.

        Raises:
            MotionRefused: and nothing moves.
        """
        ...

    def grip(self, opening: float, force: float | None = None) -> None:
        """Start moving the fingers to an opening, m, against at most `force`, N; None: the configured one.

        Fingers that meet something on the way stop there and keep pressing.

        Raises:
            MotionRefused: an opening that the gripper does not have.
        """
        ...

    def stop(self) -> None:
        """Halt arm and fingers within one control period; a held object stays held. Never raises."""
        ...

    def recover(self) -> None:
        """Clear a fault or a stop, without moving. Raises RobotError when that is not possible."""
        ...

    def close(self) -> None:
        """Stop and disconnect. Twice is once."""
        ...


def tips_of(grasps: Grasps) -> np.ndarray:
    """(G, 4, 4) float64: where the tips are when the grasps close, in the grasps' frame, m."""
    poses = grasps.poses().astype(np.float64)
    poses[:, :3, 3] += grasps.depth[:, None] * poses[:, :3, 0]
    return poses


def withdrawn(tips: np.ndarray, distance: float) -> np.ndarray:
    """Poses (..., 4, 4) moved back by `distance`, m, along their approach."""
    moved = np.array(tips, np.float64)
    moved[..., :3, 3] -= distance * moved[..., :3, 0]
    return moved
