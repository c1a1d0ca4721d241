"""The states of the grasp loop."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """Where the loop is; the value is what the log says."""

    START = "start"  # checks before anything moves
    OBSERVE = "observe"  # to where the camera sees the scene
    CAPTURE = "capture"  # a fresh frame
    PERCEIVE = "perceive"  # shapes and grasps of it
    CHOOSE = "choose"  # the first grasp that is allowed and reachable
    OPEN = "open"  # fingers to the grasp's opening
    PREGRASP = "pregrasp"  # to the start of the straight approach
    APPROACH = "approach"  # straight in
    CLOSE = "close"
    LIFT = "lift"
    VERIFY = "verify"  # is something held, is the object gone from its place
    PLACE = "place"  # to a drop pose
    RELEASE = "release"  # open the fingers: over a drop pose, or after a failed attempt
    RETREAT = "retreat"  # straight back along the approach
    WAIT = "wait"  # pause before looking again
    RECOVER = "recover"  # clear a robot fault, without moving
    END = "end"  # stopped, nothing moves


# In these the robot is under way; in the others it stands still.
MOVING = frozenset(
    {
        State.OBSERVE,
        State.OPEN,
        State.PREGRASP,
        State.APPROACH,
        State.CLOSE,
        State.LIFT,
        State.PLACE,
        State.RELEASE,
        State.RETREAT,
    }
)
