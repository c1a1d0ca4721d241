"""A camera that does what a test says, and time that passes when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import pytest

from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.live.pipeline import LiveResult
from zerograsp_edge.runtime.result import Result


class FakeClock:
    """Time passes in `sleep` only; any thread may read it."""

    def __init__(self) -> None:
        self.time = 50.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.time += seconds


def make_frame(number: int, timestamp: float = 0.0) -> Frame:
    return Frame(
        np.full((4, 4, 3), 90, np.uint8), np.full((4, 4), 500, np.float32),
        np.array([[10, 0, 2], [0, 10, 2], [0, 0, 1]]), timestamp=timestamp, name=str(number),
    )  # fmt: skip


@dataclass
class ScriptedCamera:
    """Delivers frames named 0, 1, 2, ...

    Attributes:
        count: frames until EndOfFrames; None: endless.
        before: called with the number of the coming frame; may wait, raise, or let time pass.
        stamp: of a frame.
        waits: `read` waits, from the frame of this number on, until the camera is closed.
    """

    count: int | None = None
    live: bool = False
    clock: TimestampClock = "own"
    before: Callable[[int], object] = lambda number: None
    stamp: Callable[[int], float] = float
    waits: int | None = None
    name: str = "scripted camera"
    number: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    @property
    def counters(self) -> CameraCounters:
        return CameraCounters(frames=self.number, lost=2)

    def read(self) -> Frame:
        self.before(self.number)
        if self.closed.is_set():
            raise CameraError("the camera is closed")
        if self.number == self.waits:
            self.waiting.set()
            self.closed.wait()
            raise CameraError("the camera is closed")
        if self.number == self.count:
            raise EndOfFrames(f"all {self.count} frames have been read")
        frame = make_frame(self.number, self.stamp(self.number))
        self.number += 1
        return frame

    def close(self) -> None:
        self.closed.set()

    def __enter__(self) -> ScriptedCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def perceive(frame: Frame) -> Result:
    return Result((), timings={"network": 2.0}, name=frame.name)


@dataclass
class Kept:
    """A consumer that remembers the names of what it was given."""

    items: list[LiveResult] = field(default_factory=list)

    def __call__(self, item: LiveResult) -> None:
        self.items.append(item)

    @property
    def names(self) -> list[int]:
        return [int(item.frame.name) for item in self.items]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("live ")] == []
