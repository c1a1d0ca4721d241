"""How the grasp loop behaves. Every class checks itself; a deployment file fills them (`runtime/deployment.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from zerograsp_edge.runtime.errors import ConfigError

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class TipsPose:
    """A pose of the finger tips in the robot's base frame.

    Attributes:
        position: of the middle between the tips, m.
        approach: direction from the palm to the tips, any length; straight down by default.
        closing: direction in which the fingers close, any length; what of it lies along `approach` is ignored.
    """

    position: Vector
    approach: Vector = (0.0, 0.0, -1.0)
    closing: Vector = (0.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("position", "approach", "closing"):
            vector = getattr(self, name)
            if len(vector) != 3 or not all(math.isfinite(v) for v in vector):
                raise ConfigError(f"{name}: expected 3 finite numbers, got {tuple(vector)}")
        if max(map(abs, self.position)) > 10:
            raise ConfigError(f"position: expected metres below 10, got {self.position}; are these millimetres?")
        if np.linalg.norm(self.approach) < 1e-6 or np.linalg.norm(
            np.cross(self.approach, self.closing)
        ) < 1e-3 * np.linalg.norm(self.approach):
            raise ConfigError(
                f"expected an approach and a closing direction across it, got {self.approach} and {self.closing}"
            )

    @classmethod
    def of(cls, pose: np.ndarray) -> TipsPose:
        """From (4, 4), base <- tips, m."""
        position, approach, closing = (
            (float(v[0]), float(v[1]), float(v[2])) for v in (pose[:3, 3], pose[:3, 0], pose[:3, 1])
        )
        return cls(position, approach, closing)

    def matrix(self) -> np.ndarray:
        """(4, 4) float64, base <- tips, m."""
        approach = np.asarray(self.approach, np.float64)
        approach = approach / np.linalg.norm(approach)
        height = np.cross(approach, self.closing)
        height /= np.linalg.norm(height)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = approach, np.cross(height, approach), height
        pose[:3, 3] = self.position
        return pose


def _check_range(config: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:  # NaN as well
            raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value}")


@dataclass(frozen=True)
class Timeouts:
    """The longest that the loop stays in a state, seconds of the robot's clock.

    A motion that takes longer is stopped and ends the run; a picture or perception that takes longer is a perception
    fault, and what comes after all is thrown away.
    """

    start: float = 3.0
    observe: float = 15.0
    capture: float = 2.0
    perceive: float = 15.0
    choose: float = 5.0
    open: float = 5.0
    pregrasp: float = 15.0
    approach: float = 10.0
    close: float = 5.0
    lift: float = 10.0
    verify: float = 5.0
    place: float = 20.0
    release: float = 5.0
    retreat: float = 10.0
    recover: float = 5.0

    def __post_init__(self) -> None:
        _check_range(self, 1e-3, 3600, *(f.name for f in fields(self)))


@dataclass(frozen=True)
class Limits:
    """When the loop gives up, and how old things may be.

    Attributes:
        picks: the run ends after that many; None: when nothing is left.
        perception_faults: captures and perceptions that failed in a row before the run ends.
        empty_views: views without an object since the last attempt, after which the run ends.
        no_grasp_views: views with objects and without a grasp that may be executed, since the last attempt, after
            which the run ends.
        failed_attempts: attempts in a row that failed, after which the run ends.
        robot_faults: faults of the robot during approach, closing and lifting (a collision reflex, say) that are
            cleared and count as a failed attempt; one more, or one elsewhere, ends the run.
        candidates: grasps of one view that are tried when the robot refuses the motion to one.
        frame_age: oldest frame that is accepted, s.
        plan_age: from the frame to the start of the motion that was planned with it, s at most.
        pause: before looking again after a fault or an empty view, s.
    """

    picks: int | None = None
    perception_faults: int = 5
    empty_views: int = 3
    no_grasp_views: int = 5
    failed_attempts: int = 8
    robot_faults: int = 0
    candidates: int = 5
    frame_age: float = 0.5
    plan_age: float = 30.0
    pause: float = 0.3

    def __post_init__(self) -> None:
        counts = ("perception_faults", "empty_views", "no_grasp_views", "failed_attempts", "candidates")
        _check_range(self, 1, 10_000, *counts, *(("picks",) if self.picks is not None else ()))
        _check_range(self, 0, 10_000, "robot_faults")
        _check_range(self, 1e-3, 3600, "frame_age", "plan_age")
        _check_range(self, 0, 3600, "pause")


@dataclass(frozen=True)
class MotionConfig:
    """How the robot moves.

    Attributes:
        pregrasp_distance: the straight approach begins this far before the grasp, m. Refinement checks the path as far
            as `RefineConfig.approach_distance` says; it should be no shorter.
        lift_height: straight up (base z) after closing, m.
        speed, approach_speed, carry_speed: shares of the robot's configured speed: free motions; the straight approach
            and retreat; with an object in the hand.
        grip_force: N; None: the robot's configured one.
        min_held_opening: a closed gripper that cannot tell whether it holds something does so when its fingers are
            farther apart than this, m.
        position_tolerance, angle_tolerance: a motion that ends farther from its goal has been blocked; m and degrees.
    """

    pregrasp_distance: float = 0.1
    lift_height: float = 0.12
    speed: float = 1.0
    approach_speed: float = 0.4
    carry_speed: float = 0.4
    grip_force: float | None = None
    min_held_opening: float = 0.002
    position_tolerance: float = 0.01
    angle_tolerance: float = 5.0

    def __post_init__(self) -> None:
        _check_range(self, 0.005, 1, "pregrasp_distance", "lift_height")
        _check_range(self, 1e-3, 1, "speed", "approach_speed", "carry_speed")
        if self.grip_force is not None:
            _check_range(self, 0.1, 1000, "grip_force")
        _check_range(self, 0, 0.1, "min_held_opening")
        _check_range(self, 1e-4, 0.1, "position_tolerance")
        _check_range(self, 0.1, 180, "angle_tolerance")


@dataclass(frozen=True)
class VerifyConfig:
    """How a pick is verified after the lift, besides what the gripper reports.

    Attributes:
        camera: look whether the object is gone from its place; False trusts the gripper alone.
        depth_tolerance: a measured depth within this of the object's old surface is that object still there; deeper
            by more, it is gone there; nearer by more, something else is in the way; m.
        min_gone: share of the pixels that can tell that must say gone.
        min_seen: share of the object's visible surface that must be able to tell; else the view is not conclusive and
            the gripper decides.
    """

    camera: bool = True
    depth_tolerance: float = 0.008
    min_gone: float = 0.5
    min_seen: float = 0.25

    def __post_init__(self) -> None:
        _check_range(self, 1e-3, 0.2, "depth_tolerance")
        _check_range(self, 0.01, 1, "min_gone", "min_seen")


@dataclass(frozen=True)
class BlacklistConfig:
    """Which grasps count as the failed one, and for how long: see `Blacklist`.

    Attributes:
        half_life: s.
        radius: between the tips, m.
        angle: between the hands, degrees.
    """

    half_life: float = 60.0
    radius: float = 0.02
    angle: float = 30.0

    def __post_init__(self) -> None:
        _check_range(self, 0.1, 1e6, "half_life")
        _check_range(self, 0, 1, "radius")
        _check_range(self, 0, 180, "angle")


@dataclass(frozen=True)
class LoopConfig:
    """Everything the grasp loop can be told.

    Attributes:
        observe: where the tips wait while a picture is taken; None: where they happen to be. The robot goes there at
            the start and after every attempt, never because of a perception fault.
        place: drop poses, used in turn. Without one, the run ends with the first object held.
        min_score: grasps below are not executed; None: all are allowed.
        camera_clock: `robot`: a frame's timestamp is of `Robot.now`. `own`: of a clock of the camera; its offset is
            estimated from the arrival of the frames, see `FrameGate`.
        identical_frames: whether a frame whose picture equals the one before bit by bit is refused as frozen. Only a
            simulated camera without noise can see the same twice.
    """

    observe: TipsPose | None = None
    place: tuple[TipsPose, ...] = ()
    min_score: float | None = None
    camera_clock: Literal["robot", "own"] = "robot"
    identical_frames: Literal["refuse", "allow"] = "refuse"
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    motion: MotionConfig = field(default_factory=MotionConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    blacklist: BlacklistConfig = field(default_factory=BlacklistConfig)

    def __post_init__(self) -> None:
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ConfigError(f"min_score: expected a finite number or none, got {self.min_score}")
        for name, allowed in (("camera_clock", ("robot", "own")), ("identical_frames", ("refuse", "allow"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}")
