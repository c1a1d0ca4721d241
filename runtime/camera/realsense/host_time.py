"""Timestamps of a device in this computer's monotonic clock."""

from __future__ import annotations

import time

from zerograsp_edge.runtime.camera.capture import Stamp

# Two quartz clocks drift apart by less than this.
_DRIFT = 1e-4
# The device counts microseconds in 32 bits.
_WRAP_MS = 2**32 / 1000


class HostTime:
    """Converts timestamps, s of time.monotonic(), of one run of the streams.

    `global_time` and `system_time` are of the wall clock, whose distance to the monotonic one is known. A
    `hardware_clock` has an unknown offset: the smallest difference between arrival and timestamp so far is taken for
    it, which leaves out the constant part of the latency.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._since = 0.0
        self._last = 0.0
        self._wraps = 0

    def __call__(self, stamp: Stamp, arrival: float, wall: float | None = None) -> float:
        """When the picture was taken.

        Args:
            arrival: s, time.monotonic().
            wall: s, time.time() at the same moment as arrival; None: now's distance between the clocks is taken.
        """
        if stamp.domain != "hardware_clock":
            distance = time.time() - time.monotonic() if wall is None else wall - arrival
            return min(stamp.time / 1000 - distance, arrival)  # an estimate may lie in the future, a picture cannot
        if self._last - stamp.time > _WRAP_MS / 2:
            self._wraps += 1
        self._last = stamp.time
        taken = (stamp.time + self._wraps * _WRAP_MS) / 1000
        difference = arrival - taken
        if self._offset is None:
            self._offset = difference
        else:
            self._offset = min(self._offset + _DRIFT * max(arrival - self._since, 0.0), difference)
        self._since = arrival
        return taken + self._offset
