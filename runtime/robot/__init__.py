"""Robots that the grasp loop can drive: one small protocol, and its implementations."""

from zerograsp_edge.runtime.robot.base import MotionRefused, Robot, RobotError, RobotState

__all__ = ["MotionRefused", "Robot", "RobotError", "RobotState"]
