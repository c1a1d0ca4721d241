"""A camera's world without a camera: time that passes when somebody waits, and a device that does what a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo
from zerograsp_edge.runtime.camera.capture import Capture, Developed, Picture, Stamp, Streams
from zerograsp_edge.runtime.camera.recovery import Supervisor

SHAPE = (16, 16)
PERIOD = 1 / 30
D435 = DeviceInfo("111", "Intel RealSense D435", "5.16.0.1", "5.16.0.1", "3.2")
DEPTH = np.tile(np.arange(1000, 1016, dtype=np.uint16), (16, 1))
COLOUR = np.full((16, 16, 3), 90, np.uint8)


def capture(number: int, depth: np.ndarray | None = DEPTH, colour: np.ndarray | None = COLOUR, arrival: float = 0.0,
            colour_number: int | None = None) -> Capture:  # fmt: skip
    """A pair of pictures, or half of one where a picture is None."""
    time = number * PERIOD * 1000
    return Capture(
        None if depth is None else Picture(Stamp(number, time), depth),
        None if colour is None else Picture(Stamp(number if colour_number is None else colour_number, time), colour),
        arrival,
    )


class FakeClock:
    """Time passes in `sleep` only."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.time += seconds


@dataclass
class FakeBackend:
    """A device that delivers a frame every PERIOD, unless told otherwise.

    Attributes:
        connected: what is plugged in.
        silent: it delivers nothing.
        on_start, on_reset, on_wait: called before; may raise, or change the above.
        log: (time, what was called).
    """

    clock: FakeClock
    connected: list[DeviceInfo] = field(default_factory=lambda: [D435])
    silent: bool = False
    on_devices: Callable[[], None] = lambda: None
    on_start: Callable[[], None] = lambda: None
    on_wait: Callable[[], None] = lambda: None
    on_reset: Callable[[], None] = lambda: None
    log: list[tuple[float, str]] = field(default_factory=list)
    device: DeviceInfo | None = None
    number: int = 0

    def devices(self) -> Sequence[DeviceInfo]:
        self.on_devices()
        return list(self.connected)

    def start(self, device: DeviceInfo) -> Streams:
        assert self.device is None, "started twice"
        self._note("start")
        self.on_start()
        self.device, self.number = device, 0
        return Streams(np.eye(3, dtype=np.float32), SHAPE, SHAPE, 1 / PERIOD, develop)

    def wait(self, timeout: float) -> Capture | None:
        assert self.device is not None and timeout >= 0
        self.on_wait()
        if self.silent or self.device not in self.connected:
            self.clock.sleep(max(timeout, 0.001))
            return None
        self.clock.sleep(PERIOD)
        self.number += 1
        return capture(self.number, arrival=self.clock.now())

    def stop(self) -> None:
        self.device = None

    def reset(self, device: DeviceInfo) -> None:
        self._note("reset")
        self.on_reset()

    def calls(self) -> list[str]:
        return [what for _, what in self.log]

    def _note(self, what: str) -> None:
        self.log.append((self.clock.now(), what))


def develop(taken: Capture) -> Developed:
    assert taken.depth is not None and taken.colour is not None
    return Developed(taken.colour.pixels.copy(), taken.depth.pixels.astype(np.float32), {})


def run(supervisor: Supervisor, seconds: float, until: Callable[[], bool] = lambda: False) -> list[Capture]:
    """Step for that long by the supervisor's clock; what was delivered."""
    end = supervisor.clock.now() + seconds
    delivered = []
    while supervisor.clock.now() < end and not until():
        taken = supervisor.step()
        if taken is not None:
            delivered.append(taken)
    return delivered


def refuse(message: str) -> Callable[[], None]:
    def raising() -> None:
        raise DeviceFault(message)

    return raising


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend(clock: FakeClock) -> FakeBackend:
    return FakeBackend(clock)
