"""How a Franka is driven; a deployment file fills this."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.grasp.constraints import Workspace
from zerograsp_edge.runtime.robot.kinematics import ARMS

# Farthest from the axis of joint 1: the manufacturer's data sheet gives a reach of 855 mm.
_REACH_M = 0.855


@dataclass(frozen=True)
class FrankaConfig:
    """Connection, dynamics, and what counts as a collision.

    Impedance and thresholds are those that libfranka's examples set (`examples_common.cpp`, `setDefaultBehavior`):
    stiff enough to follow a path within a millimetre or so, and a push of about 2 kg against the hand is a collision.

    Attributes:
        host: address of the control unit, in the network that its FCI is reached in.
        arm: `fr3` or `panda` (also called FER): whose joint limits count.
        realtime: require a real-time kernel, as libfranka does by default; False for a simulated arm.
        speed: share of the manufacturer's limits of velocity, acceleration and jerk, over 0 to 1. Every motion's own
            speed multiplies it.
        workspace: box in the base frame that the tips do not leave, m. Its floor belongs a little below the surface
            that objects stand on: the lowest place that the tips may ever be.
        limit_margin: distance kept from every joint limit, rad.
        grip_force: of a grasp without a force of its own, N (the hand can do 70 N continuously).
        finger_speed: of each command, m/s (the hand can do 0.05 for each finger).
        joint_impedance: (7,) N m/rad, of the robot's internal controller, which follows straight lines too.
        torque_threshold: (7,) N m, and
        force_threshold: (6,) N and N m: external ones from which the robot stops with a reflex.
        connect_timeout: s.
    """

    host: str
    arm: str = "fr3"
    realtime: bool = True
    speed: float = 0.2
    workspace: Workspace = field(
        default_factory=lambda: Workspace((-_REACH_M, -_REACH_M, 0.0), (_REACH_M, _REACH_M, 1.19))
    )
    limit_margin: float = 0.05
    grip_force: float = 20.0
    finger_speed: float = 0.05
    joint_impedance: tuple[float, ...] = (3000, 3000, 3000, 2500, 2500, 2000, 2000)
    torque_threshold: tuple[float, ...] = (20, 20, 18, 18, 16, 14, 12)
    force_threshold: tuple[float, ...] = (20, 20, 20, 25, 25, 25)
    connect_timeout: float = 10.0

    def __post_init__(self) -> None:
        if not self.host or not isinstance(self.host, str):
            raise ConfigError(f"host: expected the address of the control unit, such as 172.16.0.2, got {self.host!r}")
        if self.arm not in ARMS:
            raise ConfigError(f"arm: expected {' or '.join(ARMS)}, got {self.arm!r}")
        for name, low, high in (
            ("speed", 1e-3, 1.0),
            ("limit_margin", 0.0, 0.3),
            ("grip_force", 0.1, 70.0),
            ("finger_speed", 1e-3, 0.1),
            ("connect_timeout", 0.1, 600.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN as well
                raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value}")
        for name, count in (
            ("joint_impedance", 7),
            ("torque_threshold", 7),
            ("force_threshold", 6),
        ):
            values = getattr(self, name)
            if len(values) != count or not all(math.isfinite(v) and v > 0 for v in values):
                raise ConfigError(f"{name}: expected {count} positive numbers, got {tuple(values)}")
