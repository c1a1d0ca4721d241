"""The connection to a Franka arm and its hand: threads that read their states, and what their errors mean.

libfranka answers a question about the state with the next packet, and that of the hand comes a few times a second only.
So each has a thread that reads all the time, and the driver looks at the last sample.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from zerograsp_edge.runtime.robot.base import RobotError

T = TypeVar("T")
_HISTORY_S = 5.0


@dataclass(frozen=True, eq=False)
class ArmSample:
    """The arm at one moment.

    Attributes:
        time: `time.monotonic`, s.
        joints: (7,) measured, rad.
        end_effector: (4, 4) base <- end effector as configured in Desk, m.
        mode: libfranka's `RobotMode` by name.
        errors: names of libfranka's errors; empty without one.
    """

    time: float
    joints: np.ndarray
    end_effector: np.ndarray
    mode: str
    errors: str


@dataclass(frozen=True)
class HandSample:
    """The hand at one moment, or a little later: opening, m; whether it says that it has grasped something."""

    time: float
    opening: float
    grasped: bool


class Watch:
    """Reads samples in a thread of its own, until it is closed or a reading fails.

    Args:
        read: takes one sample; may block.
        period: from the start of one reading to the next, s.
    """

    def __init__(self, name: str, read: Callable[[], Any], period: float) -> None:
        self._read, self._period = read, period
        self._samples: deque[Any] = deque(maxlen=max(2, round(_HISTORY_S / period)))
        self._failure = ""
        self._closed = threading.Event()
        self._samples.append(read())
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def last(self) -> Any:
        """The newest sample.

        Raises:
            RobotError: the last reading failed, or none came for two seconds.
        """
        sample = self._samples[-1]
        if self._failure:
            raise RobotError(f"the connection is lost: {self._failure}; close the robot and connect again")
        if not self._closed.is_set() and time.monotonic() - sample.time > 2.0:
            raise RobotError("the robot has not answered for two seconds; check the network, close and connect again")
        return sample

    def history(self) -> list[Any]:
        """Samples of the last five seconds, oldest first."""
        return list(self._samples)

    def close(self) -> None:
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _work(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._samples.append(self._read())
            except Exception as error:
                self._failure = str(error)
                return
            self._closed.wait(max(0.0, self._period - (time.monotonic() - began)))


def read_arm(arm: Any) -> ArmSample:
    """One sample of a `franky.Robot`."""
    state = arm.state
    return ArmSample(
        time=time.monotonic(),
        joints=np.array(state.q, np.float64),
        end_effector=np.array(state.O_T_EE.matrix, np.float64),
        mode=state.robot_mode.name,
        errors=str(state.current_errors).strip("[]"),
    )


def read_hand(hand: Any) -> HandSample:
    """One sample of a `franky.Gripper`."""
    asked = time.monotonic()
    state = hand.state
    return HandSample(asked, float(state.width), bool(state.is_grasped))


def within(seconds: float, call: Callable[[], T], what: str) -> T:
    """What the call returns; it goes on in a thread of its own, so that a silent host does not hang the caller.

    Raises:
        RobotError: it takes longer. What the call itself raises is passed on.
    """
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend((True, call()))
        except Exception as error:
            outcome.extend((False, error))

    thread = threading.Thread(target=work, name="franka-connect", daemon=True)
    thread.start()
    thread.join(seconds)
    if len(outcome) < 2:
        raise RobotError(
            f"{what} did not answer within {seconds:g} s; is the address right, and no other program connected?"
        )
    good, value = outcome
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


def explain(franky: ModuleType, error: BaseException) -> str:
    """What an exception of franky means, and what to do."""
    said = str(error).removeprefix("libfranka: ").removeprefix("libfranka gripper: ").strip().rstrip(".")
    for kind, advice in (
        (
            "NetworkException",
            "check the cable and the address, unlock the brakes and activate FCI in Desk; one program at a time may "
            "be connected",
        ),
        (
            "IncompatibleVersionException",
            "install the build of franky-control for the robot's system version: see franky's installation guide, "
            "'by-robot-server-version'",
        ),
        (
            "RealtimeException",
            "use a PREEMPT_RT kernel and give your user real-time priority (libfranka's documentation, 'Setting up the "
            "real-time kernel'); realtime=False is meant for a simulated arm",
        ),
        ("InvalidOperationException", "another operation is under way"),
    ):
        known = getattr(franky, kind, None)
        if known is not None and isinstance(error, known):
            return f"{said}; {advice}"
    return said or type(error).__name__
