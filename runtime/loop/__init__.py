"""The grasp loop: capture, perceive, choose, approach, close, lift, verify, place, repeat."""

from zerograsp_edge.runtime.loop.config import (
    BlacklistConfig,
    Limits,
    LoopConfig,
    MotionConfig,
    Timeouts,
    TipsPose,
    VerifyConfig,
)
from zerograsp_edge.runtime.loop.events import Event, EventLog
from zerograsp_edge.runtime.loop.machine import GraspLoop
from zerograsp_edge.runtime.loop.report import Ending, LoopReport
from zerograsp_edge.runtime.loop.states import State

__all__ = [
    "BlacklistConfig",
    "Ending",
    "Event",
    "EventLog",
    "GraspLoop",
    "Limits",
    "LoopConfig",
    "LoopReport",
    "MotionConfig",
    "State",
    "Timeouts",
    "TipsPose",
    "VerifyConfig",
]
