"""Which captures become frames: complete, sound, and newer than all before. The others are counted."""

from __future__ import annotations

from collections import deque

import numpy as np

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.capture import Capture

# Numbers that are remembered, to tell a duplicate from a latecomer.
_MEMORY = 512
# A counter that falls by more than this has started again.
_RESTARTED = 1000

# Neighbouring pixels of a depth picture differ by more than a quarter of the depth at edges only, a few percent of all;
# of uniform noise 75 % do. Neighbouring pixels of a colour picture differ by 85 grey values on average in uniform
# noise.
_NOISY_SHARE = 0.5
_NOISY_GREY = 60.0
_FEWEST_PAIRS = 64


class Vetting:
    """Judges the captures of one run of the streams, in the order of their arrival.

    Args:
        depth_shape, colour_shape: (rows, columns) that the pictures must have.
        counters: where refusals are counted.
    """

    def __init__(
        self, depth_shape: tuple[int, int], colour_shape: tuple[int, int], counters: CameraCounters
    ) -> None:
        self._shapes = depth_shape, colour_shape
        self._counters = counters
        self._last: int | None = None
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._missing: set[int] = set()
        # Half of a pair, whose other half may be the next delivery: librealsense's syncer releases the first pair, late
        # pairs, and those after a long pause in halves.
        self._half: Capture | None = None

    def accept(self, capture: Capture) -> Capture | None:
        """The capture that may be used, if there is one now; counts what may not.

        It is another one than was given where two halves make a pair.
        """
        whole = capture if capture.complete else self._joined(capture)
        if whole is None:
            return None
        self.flush()
        assert whole.depth is not None and whole.colour is not None
        if not self._is_new(whole.depth.stamp.number):
            return None
        if corruption(whole.depth.pixels, whole.colour.pixels, *self._shapes):
            self._counters.corrupted += 1
            return None
        return whole

    def flush(self) -> None:
        """No other half will come for what is waiting."""
        half, self._half = self._half, None
        if half is None:
            return
        if half.depth is not None and half.depth.stamp.number in self._seen:
            self._counters.duplicated += 1
        else:
            self._counters.unpaired += 1
            if half.depth is not None:  # it did arrive
                self._remember(half.depth.stamp.number)

    def _joined(self, half: Capture) -> Capture | None:
        """Both halves of a pair, once the second one is there."""
        other, self._half = self._half, None
        if other is None or not _are_halves(other, half):
            self._half = other
            self.flush()
            self._half = half
            return None
        return Capture(other.depth or half.depth, other.colour or half.colour, half.arrival)

    def _is_new(self, number: int) -> bool:
        if self._last is not None and self._last - number > _RESTARTED:
            self._last = None
            self._seen.clear()
            self._order.clear()
            self._missing.clear()
        if number in self._seen:
            self._counters.duplicated += 1
            return False
        late = self._last is not None and number < self._last
        self._remember(number)
        if late:
            self._counters.reordered += 1
        return not late

    def _remember(self, number: int) -> None:
        self._seen.add(number)
        self._order.append(number)
        if len(self._order) > _MEMORY:
            self._seen.discard(self._order.popleft())
        if number in self._missing:  # was taken for lost when its successor came
            self._missing.discard(number)
            self._counters.lost -= 1
        elif self._last is not None and number > self._last + 1:
            self._counters.lost += number - self._last - 1
            self._missing = {m for m in self._missing if m > number - _MEMORY}
            self._missing.update(range(max(self._last + 1, number - _MEMORY), number))
        self._last = number if self._last is None else max(self._last, number)


def corruption(
    depth: np.ndarray, colour: np.ndarray, depth_shape: tuple[int, int], colour_shape: tuple[int, int]
) -> str:
    """What is wrong with a pair of pictures; empty when nothing is.

    Args:
        depth: (H, W) uint16.
        colour: (H, W, 3) uint8.
    """
    for name, pixels, shape in (("depth", depth, depth_shape), ("colour", colour, colour_shape)):
        if pixels.shape[:2] != shape:
            return f"{name} is {pixels.shape[1]}x{pixels.shape[0]}, expected {shape[1]}x{shape[0]}"
        if not pixels.any():
            return f"{name} is zero everywhere"
    left, right = (depth[::8, start::8].astype(np.int32) for start in (0, 1))
    left = left[:, : right.shape[1]]
    valid = (left > 0) & (right > 0)
    steps = np.abs(left - right)[valid] * 4 > np.maximum(left, right)[valid]
    if steps.size >= _FEWEST_PAIRS and steps.mean() > _NOISY_SHARE:
        return f"depth is noise: {steps.mean():.0%} of neighbouring pixels differ by more than a quarter"
    left, right = (colour[::8, start::8, 1].astype(np.int32) for start in (0, 1))
    difference = np.abs(left[:, : right.shape[1]] - right).mean()
    if difference > _NOISY_GREY:
        return f"colour is noise: neighbouring pixels differ by {difference:.0f} on average"
    return ""


def _are_halves(first: Capture, second: Capture) -> bool:
    pictures = [(first.depth, second.colour), (second.depth, first.colour)]
    return any(
        depth is not None and colour is not None and depth.stamp.time == colour.stamp.time
        for depth, colour in pictures
    )
