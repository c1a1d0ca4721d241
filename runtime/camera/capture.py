"""One delivery of a camera, before it is judged and made a frame of: colour and depth, or only one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Stamp:
    """Number and time of one picture.

    Attributes:
        number: the device's frame counter.
        time: ms.
        domain: clock of the time: `hardware_clock`, `system_time` or `global_time` (librealsense's timestamp domains).
    """

    number: int
    time: float
    domain: str = "hardware_clock"


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture as it came.

    Attributes:
        pixels: (H, W) uint16 depth in the device's units or (H, W, 3) uint8 colour; a view of the driver's memory.
        handle: the driver's own object, which processing needs.
    """

    stamp: Stamp
    pixels: np.ndarray
    handle: Any = None


@dataclass(frozen=True, eq=False)
class Capture:
    """Pictures that belong together, at least one.

    Attributes:
        arrival: when they came, s, time.monotonic().
    """

    depth: Picture | None
    colour: Picture | None
    arrival: float

    @property
    def complete(self) -> bool:
        return self.depth is not None and self.colour is not None


@dataclass(frozen=True, eq=False)
class Developed:
    """What processing makes of a capture.

    Attributes:
        rgb: (H, W, 3) uint8, owned.
        depth: (H, W) float32, mm, registered to rgb.
        metadata: of the exposure, by librealsense's names.
    """

    rgb: np.ndarray
    depth: np.ndarray
    metadata: dict[str, float]


@dataclass(frozen=True, eq=False)
class Streams:
    """Streams that have been started.

    Attributes:
        intrinsics: (3, 3) float32, pixels, of the frames: of colour.
        depth_shape, colour_shape: (rows, columns) of the pictures as they come.
        fps: pictures a second.
        develop: capture -> pictures of a frame.
    """

    intrinsics: np.ndarray
    depth_shape: tuple[int, int]
    colour_shape: tuple[int, int]
    fps: float
    develop: Callable[[Capture], Developed]


class Clock(Protocol):
    """Time that the recovery of a camera waits by; tests bring their own."""

    def now(self) -> float:
        """s, of time.monotonic()."""
        ...

    def sleep(self, seconds: float) -> None: ...
