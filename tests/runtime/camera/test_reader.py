"""The reader's thread: the newest capture wins or all wait, errors reach whoever reads, closing ends everything."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from zerograsp_edge.runtime.camera.backend import DeviceInfo
from zerograsp_edge.runtime.camera.capture import Capture, Streams
from zerograsp_edge.runtime.camera.reader import MonotonicClock
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.recovery import RecoveryConfig
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames

from .conftest import D435, SHAPE, capture, develop

CONFIG = RealSenseConfig(
    warm_up=0, clock="own", timeout=30, recovery=RecoveryConfig(restarts=0, resets=0, settle=0, stall=0.3)
)
K = np.array([[16, 0, 8], [0, 16, 8], [0, 0, 1]], np.float32)


class StandingClock(MonotonicClock):
    """However slow the machine is, nothing counts as a stall."""

    def now(self) -> float:
        return 0.0


class GatedBackend:
    """Delivers as many captures as were let through."""

    def __init__(self, connected: bool = True) -> None:
        self.gate = threading.Semaphore(0)
        self.connected, self.number, self.waits, self.started = connected, 0, 0, False
        self.error: Exception | None = None

    def devices(self) -> list[DeviceInfo]:
        return [D435] if self.connected else []

    def start(self, device: DeviceInfo) -> Streams:
        self.started = True
        return Streams(K, SHAPE, SHAPE, 30.0, develop)

    def wait(self, timeout: float) -> Capture | None:
        self.waits += 1
        if not self.gate.acquire(timeout=0.02):
            return None
        if self.error is not None:
            raise self.error
        self.number += 1
        return capture(self.number)

    def let(self, count: int) -> None:
        """Let captures through, and wait until the reader has come back for more."""
        for _ in range(count):
            self.gate.release()
        goal = self.number + count
        while self.number < goal:
            time.sleep(0.001)
        waits = self.waits
        while self.waits < waits + 2:
            time.sleep(0.001)

    def stop(self) -> None:
        self.started = False

    def reset(self, device: DeviceInfo) -> None: ...


def test_the_newest_wins_and_the_others_are_counted() -> None:
    backend = GatedBackend()
    backend.gate.release()
    with RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend) as camera:
        backend.let(4)
        frame = camera.read()
        assert frame.name == "000005" and frame.timestamp == pytest.approx(5 / 30)
        assert (camera.counters.superseded, camera.counters.frames, camera.counters.dropped) == (4, 1, 4)
        assert camera.name == str(D435) and camera.live
    assert not backend.started


def test_no_frame_is_given_out_twice() -> None:
    backend = GatedBackend()
    backend.gate.release()
    with RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend) as camera:
        names = [camera.read().name]
        for _ in range(3):
            threading.Timer(0.05, backend.gate.release).start()
            names.append(camera.read().name)
    assert names == [f"{n:06d}" for n in range(1, 5)]


def test_all_wait_where_that_is_asked_for() -> None:
    backend = GatedBackend()
    for _ in range(6):
        backend.gate.release()
    with RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend, keep_all=True) as camera:
        assert [camera.read().name for _ in range(6)] == [f"{n:06d}" for n in range(1, 7)]
        assert camera.counters.superseded == 0


def test_what_came_last_is_read_before_the_end() -> None:
    backend = GatedBackend()
    backend.gate.release()
    with RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend) as camera:
        backend.error = EndOfFrames("all of them")
        backend.gate.release()
        assert camera.read().name == "000001"
        for _ in range(2):
            with pytest.raises(EndOfFrames, match="all of them"):
                camera.read()


def test_no_camera_is_an_error_at_once() -> None:
    with pytest.raises(CameraError, match="no RealSense camera is connected"):
        RealSenseCamera(CONFIG, backend=GatedBackend(connected=False))


def test_a_stall_reaches_the_reader_and_the_past_is_not_shown() -> None:
    backend = GatedBackend()
    backend.gate.release()
    with RealSenseCamera(CONFIG, backend=backend) as camera:
        camera.read()
        with pytest.raises(CameraError, match=r"no frame for 0\.3 s"):
            camera.read()
        assert camera.counters.stalls == 1


def test_a_fault_of_the_wrapper_is_not_swallowed() -> None:
    backend = GatedBackend()
    backend.gate.release()
    with RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend) as camera:
        camera.read()
        backend.error = ZeroDivisionError("in the driver")
        backend.gate.release()
        with pytest.raises(CameraError, match="ZeroDivisionError: in the driver"):
            camera.read()


def test_closing_ends_a_waiting_read() -> None:
    backend = GatedBackend()
    backend.gate.release()
    camera = RealSenseCamera(CONFIG, clock=StandingClock(), backend=backend)
    camera.read()
    threading.Timer(0.05, camera.close).start()
    with pytest.raises(CameraError, match="closed"):
        camera.read()
    camera.close()
    camera.close()


def test_sleeps_end_when_the_camera_is_closed() -> None:
    clock = MonotonicClock()
    thread = threading.Thread(target=clock.sleep, args=(3600,))
    thread.start()
    clock.wake()
    thread.join()
    clock.sleep(3600)
