"""Which frames the loop may look at: new ones, of now."""

from __future__ import annotations

import zlib
from typing import Literal

from zerograsp_edge.runtime.frame import Frame

# Two quartz clocks drift apart by less than this; a camera's clock that is slower than the robot's must not make its
# frames look older and older.
_CLOCK_DRIFT = 1e-4


class FrameGate:
    """Refuses frames that are too old, were taken before a given moment, or repeat an earlier one.

    With a clock of its own (`own`), a camera's timestamp says nothing about its age by itself. The smallest difference
    between arrival and timestamp seen so far is then taken as that of an undelayed frame, as in one-way clock
    synchronisation, and is allowed to drift by 100 ppm; a frame that comes later than that is old by the excess. The
    constant part of the camera's latency stays unknown and is not counted.

    Args:
        clock: whose clock the timestamps are of.
        max_age: s.
        refuse_identical: whether equal pictures under new timestamps are refused.
    """

    def __init__(self, clock: Literal["robot", "own"], max_age: float, *, refuse_identical: bool) -> None:
        self._clock, self._max_age, self._refuse_identical = clock, max_age, refuse_identical
        self._last_timestamp: float | None = None
        self._last_content: int | None = None
        self._offset: float | None = None
        self._offset_time = 0.0

    def time_of(self, frame: Frame, arrival: float) -> float:
        """When the frame was taken, s of the robot's clock.

        Args:
            arrival: when it was delivered, s of the robot's clock.
        """
        if self._clock == "robot":
            return frame.timestamp
        difference = arrival - frame.timestamp
        if self._offset is None:
            self._offset = difference
        else:
            drifted = self._offset + _CLOCK_DRIFT * max(arrival - self._offset_time, 0.0)
            self._offset = min(drifted, difference)
        self._offset_time = arrival
        return frame.timestamp + self._offset

    def refusal(self, frame: Frame, time: float, now: float, not_before: float) -> str:
        """Why the frame may not be used; empty when it may. Every frame that was read has to pass here once.

        Args:
            time: of the frame, from `time_of`.
            not_before: the moment from which on a frame shows what the loop wants to see.
        """
        last = self._last_timestamp
        if frame.timestamp == last:
            return f"frozen: the same timestamp as the frame before, {last:.4f} s"
        content = _fingerprint(frame) if self._refuse_identical else None
        identical = content is not None and content == self._last_content
        self._last_content = content
        if time - now > self._max_age:
            return (
                f"from the future: {time - now:.3f} s ahead of the robot's clock; "
                "is the camera's clock another one (camera_clock: own)?"
            )
        if last is None or frame.timestamp > last:
            self._last_timestamp = frame.timestamp
        if identical:
            return "frozen: every pixel equals the frame before, under a new timestamp"
        if now - time > self._max_age:
            return f"stale: {now - time:.3f} s old, at most {self._max_age:g} s are allowed"
        if last is not None and frame.timestamp < last:
            return f"late: taken {last - frame.timestamp:.4f} s before the frame before"
        if time < not_before:
            return f"taken {not_before - time:.3f} s before the robot came to rest"
        return ""


def _fingerprint(frame: Frame) -> int:
    """Of depth and colour; CRC-32 finds repeated pictures, nobody forges them here."""
    return zlib.crc32(frame.rgb.data, zlib.crc32(frame.depth.data))
