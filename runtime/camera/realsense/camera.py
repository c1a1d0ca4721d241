"""A live RealSense camera."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from zerograsp_edge.runtime.camera.backend import Backend
from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.camera.capture import Capture, Streams
from zerograsp_edge.runtime.camera.reader import MonotonicClock, Reader
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.host_time import HostTime
from zerograsp_edge.runtime.camera.recovery import Supervisor
from zerograsp_edge.runtime.errors import CameraError, FrameError
from zerograsp_edge.runtime.frame import Frame


class RealSenseCamera:
    """Colour with depth registered to it, read in a thread of its own: the newest frame wins.

        with RealSenseCamera(RealSenseConfig(serial="...", width=848, height=480)) as camera:
            frame = camera.read()

    A camera that stalls is restarted, then its hardware is reset; one that was unplugged resumes when it is plugged in
    again. Until then `read` raises CameraError, which says what is going on and what to do. Filters and alignment run
    in `read`, for the frames that are read only.

    Args:
        config: which camera and how; default: the only one that is connected, 640x480 at 30 frames per second.
        record: .db3 file that everything is also written to, as it comes: neither filtered nor aligned.
        backend: another driver than librealsense's for real devices.
        keep_all: of a backend whose frames wait.

    Raises:
        CameraError: no camera, or it does not deliver; the message names the next command.
        MissingExtra: pyrealsense2 is not installed.
    """

    live = True

    def __init__(
        self,
        config: RealSenseConfig | None = None,
        *,
        record: Path | None = None,
        backend: Backend | None = None,
        clock: MonotonicClock | None = None,
        keep_all: bool = False,
    ) -> None:
        self.config = config or RealSenseConfig()
        if backend is None:
            from zerograsp_edge.runtime.camera.realsense.devices import LibrealsenseBackend

            backend = LibrealsenseBackend(self.config, record)
        self._wait_clock = clock or MonotonicClock()
        recovery = replace(self.config.recovery, restarts=0, resets=0) if record is not None else self.config.recovery
        self._supervisor = Supervisor(backend, self._wait_clock, recovery, self.config.serial, self.config.warm_up)
        self._reader = Reader(self._supervisor, keep_all=keep_all, name=f"camera {self.config.serial or ''}".strip())
        self._frames = 0
        self._undevelopable = 0
        self._host_time: tuple[Streams, HostTime] | None = None
        self._reading = threading.Lock()
        try:
            self._reader.wait(recovery.first_frame + self.config.timeout)  # shows that everything works
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return str(self._supervisor.device or "RealSense camera")

    @property
    def clock(self) -> TimestampClock:
        return self.config.clock

    @property
    def counters(self) -> CameraCounters:
        counters = self._reader.counters
        return replace(counters, frames=self._frames, corrupted=counters.corrupted + self._undevelopable)

    @property
    def trouble(self) -> str:
        """Why there are no frames at the moment, and what to do; empty while there are."""
        return self._supervisor.trouble

    def read(self) -> Frame:
        """The newest frame that was not read yet, waited for up to `timeout` s.

        Raises:
            CameraError: none in time; says why. May be called again: frames resume when the camera does.
        """
        deadline = time.monotonic() + self.config.timeout
        with self._reading:
            while True:
                frame = self._develop(*self._reader.take(max(deadline - time.monotonic(), 0.0)))
                if frame is not None:
                    return frame

    def close(self) -> None:
        self._wait_clock.wake()
        self._reader.close()

    def __enter__(self) -> RealSenseCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _develop(self, capture: Capture, streams: Streams) -> Frame | None:
        """The frame; None when nothing was left of its depth after filters and alignment."""
        assert capture.depth is not None
        try:
            developed = streams.develop(capture)
        except RuntimeError as error:
            raise CameraError(f"{self.name}: filters or alignment failed: {error}") from error
        stamp = capture.depth.stamp
        try:
            frame = Frame(
                developed.rgb,
                developed.depth,
                streams.intrinsics,
                timestamp=self._timestamp(capture, streams),
                name=f"{stamp.number:06d}",
                metadata=developed.metadata,
            )
        except FrameError:
            self._undevelopable += 1
            return None
        self._frames += 1
        return frame

    def _timestamp(self, capture: Capture, streams: Streams) -> float:
        assert capture.depth is not None
        if self.config.clock == "own":
            return capture.depth.stamp.time / 1000
        if self._host_time is None or self._host_time[0] is not streams:  # a restarted device counts anew
            self._host_time = (streams, HostTime())
        return self._host_time[1](capture.depth.stamp, capture.arrival)
