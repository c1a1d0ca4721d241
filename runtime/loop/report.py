"""How a run of the grasp loop ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Ending(str, Enum):
    """Why a run ended. In every case the robot has been stopped and nothing moves."""

    DONE = "done"  # as many picks as were asked for
    EMPTY = "empty"  # no object in sight, as often as the limit says
    NO_GRASP = "no grasp"  # objects, but no grasp that may be executed, as often as the limit says
    FAILED = "failed"  # too many failed attempts in a row
    PERCEPTION = "perception"  # camera or perception failed as often as the limit says
    ROBOT = "robot"  # fault, timeout or refusal that leaves no safe way on
    STOPPED = "stopped"  # asked to stop
    ERROR = "error"  # a defect: an exception that nobody raises on purpose

    @property
    def ok(self) -> bool:
        """Whether the run ended as it should: what was asked is done, or nothing is left to pick."""
        return self in (Ending.DONE, Ending.EMPTY)


@dataclass
class LoopReport:
    """What a run did.

    Attributes:
        ending: why it ended.
        explanation: one line for a person.
        picks: objects lifted, verified and, where a place is configured, placed.
        attempts: approaches begun.
        failures: failed attempts by reason.
        refused: motions that the robot refused.
        robot_faults: faults that were cleared.
        perception_faults: captures and perceptions that failed.
        frames_refused: frames that were too old, frozen or taken too early; repetitions count once.
        holding: whether the gripper still holds something, as far as is known.
        seconds: of `Robot.now`, from start to end.
        latency: milliseconds by stage, summed over the run, with their count: name -> (sum, count).
    """

    ending: Ending = Ending.ERROR
    explanation: str = ""
    picks: int = 0
    attempts: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    robot_faults: int = 0
    perception_faults: int = 0
    frames_refused: int = 0
    holding: bool = False
    seconds: float = 0.0
    latency: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add_latency(self, stage: str, milliseconds: float) -> None:
        total, count = self.latency.get(stage, (0.0, 0))
        self.latency[stage] = (total + milliseconds, count + 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: mean latency by stage."""
        return {
            "ending": self.ending.value,
            "explanation": self.explanation,
            "picks": self.picks,
            "attempts": self.attempts,
            "failures": dict(self.failures),
            "refused": self.refused,
            "robot_faults": self.robot_faults,
            "perception_faults": self.perception_faults,
            "frames_refused": self.frames_refused,
            "holding": self.holding,
            "seconds": round(self.seconds, 3),
            "mean_latency_ms": {k: round(t / n, 3) for k, (t, n) in self.latency.items()},
        }
