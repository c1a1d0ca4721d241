"""Recordings of RealSense cameras, .db3 and .bag, played back so that every run gives the same frames.

What is played is read by `tape.py`; here are speed, seeking and repetition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.camera.capture import Capture, Clock
from zerograsp_edge.runtime.camera.reader import MonotonicClock
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.tape import Tape
from zerograsp_edge.runtime.camera.vetting import Vetting
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames, FrameError
from zerograsp_edge.runtime.frame import Frame


class Playback:
    """A recording as a camera: every pair of pictures once, in order.

    Depth and colour belong together when their timestamps are equal, or else are each other's nearest and at most
    `tolerance` apart; a picture without partner is left out and counted (`unpaired`).

    Args:
        path: .db3, or .bag of older recorders.
        filters: of depth, as for a live camera.
        speed: 1 plays as fast as it was recorded, 2 twice as fast; None as fast as it is read. Changes when a frame is
            returned, never which.
        loop: `read` starts again after the last frame; timestamps go on rising.
        tolerance: ms; None: half of the time between two pictures.
        wait_clock: that `speed` waits by.

    Raises:
        CameraError: no such file, no recording, or without depth or colour.
    """

    live = False
    clock: TimestampClock = "own"

    def __init__(
        self,
        path: str | Path,
        filters: FilterConfig | None = None,
        *,
        speed: float | None = None,
        loop: bool = False,
        tolerance: float | None = None,
        wait_clock: Clock | None = None,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise CameraError(f"speed must be positive, or None for as fast as possible; got {speed:g}")
        self.path = Path(path)
        self._rs = librealsense("play a recording")
        self._filters, self._speed, self._loop, self._tolerance = filters or FilterConfig(), speed, loop, tolerance
        self._clock = wait_clock or MonotonicClock()
        self._counters = CameraCounters()
        self._began: tuple[float, float] | None = None
        self._shift = 0.0
        self._last = 0.0
        # Timestamp of the last pair that was taken, ms; after it the file is opened again where it was put aside.
        self._taken: float | None = None
        self._tape: Tape | None = None
        self._open(0.0)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def counters(self) -> CameraCounters:
        return replace(self._counters)

    @property
    def duration(self) -> float:
        """Of the recording, s, by the times at which its pictures arrived."""
        return self._opened().duration

    @property
    def intrinsics(self) -> Any:
        """(3, 3) float32, pixels, of the frames."""
        return self._opened().processing.intrinsics

    def read(self) -> Frame:
        """The next frame. Raises EndOfFrames after the last one, unless `loop`."""
        while True:
            capture = self._next()
            assert capture.depth is not None
            developed = self._opened().processing(capture)
            seconds = capture.depth.stamp.time / 1000
            try:
                frame = Frame(
                    developed.rgb, developed.depth, self.intrinsics, timestamp=seconds + self._shift,
                    name=f"{capture.depth.stamp.number:06d}", metadata=developed.metadata,
                )  # fmt: skip
            except FrameError:  # no depth was left
                self._counters.corrupted += 1
                continue
            self._pace(frame.timestamp)
            self._last = frame.timestamp
            self._counters.frames += 1
            return frame

    def seek(self, seconds: float) -> None:
        """Go to the first frame that was taken `seconds` after the recording's first one, or later; the counters go on.

        Raises:
            CameraError: negative, or behind the last frame.
        """
        if not 0 <= seconds < float("inf"):
            raise CameraError(f"{self.path}: expected to seek to 0 s or later, got {seconds:g}")
        self._began, self._shift, self._taken = None, 0.0, None
        self._open(0.0)
        first = self._opened().peek()
        if first is None or first.depth is None or seconds == 0:
            return
        wanted = first.depth.stamp.time + seconds * 1000
        self._go_to(seconds, wanted)
        self._taken = wanted - 1e-3
        if self._opened().peek() is None:
            raise CameraError(f"{self.path}: cannot seek to {seconds:g} s, the last frame was taken before")
        self._opened().lone = 0

    def _go_to(self, position: float, wanted: float) -> None:
        """Open at the first pair that was taken at `wanted` ms or later.

        Args:
            position: where that is in the file, about, s: positions are times of arrival, which need not run with the
                timestamps, hence it is begun before.
        """
        margin = 0.5
        while True:
            start = max(min(position, self.duration) - margin, 0.0)
            self._open(start)
            tape = self._opened()
            landed = tape.peek()
            if landed is None and tape.put_aside:
                continue
            if start > 0 and (landed is None or landed.depth is None or landed.depth.stamp.time > wanted):
                margin *= 4
                continue
            while (ahead := tape.peek()) is not None and ahead.depth is not None and ahead.depth.stamp.time < wanted:
                tape.take()
            if ahead is not None or not tape.put_aside:
                return

    def close(self) -> None:
        if self._tape is not None:
            self._tape.close()
            self._tape = None

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                yield self.read()
            except EndOfFrames:
                return

    def __enter__(self) -> Playback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Tape:
        if self._tape is None:
            raise CameraError(f"{self.path} is closed")
        return self._tape

    def _open(self, start: float) -> None:
        """Begin at a position in the file, s."""
        self.close()
        self._tape = Tape(self._rs, self.path, self._filters, start, self._tolerance)
        self._vetting = Vetting(self._tape.depth_shape, self._tape.colour_shape, self._counters)

    def _resume(self) -> None:
        """Open again behind the last pair that was taken, where nobody read for so long that the file was put aside."""
        tape = self._opened()
        vetting, lone = self._vetting, tape.lone
        if self._taken is None:
            self._open(0.0)
        else:
            self._go_to(tape.position, self._taken + 1e-3)
        self._vetting, self._opened().lone = vetting, lone

    def _next(self) -> Capture:
        restarted = False
        while True:
            tape = self._opened()
            capture = tape.take()
            if capture is None and tape.put_aside:
                self._resume()
                continue
            self._counters.unpaired += tape.lone
            tape.lone = 0
            if capture is not None:
                assert capture.depth is not None
                self._taken = capture.depth.stamp.time
                accepted = self._vetting.accept(capture)
                if accepted is not None:
                    return accepted
                continue
            if not self._loop or restarted:
                raise EndOfFrames(f"{self.path} has been played to its end: {self._counters}")
            restarted, self._taken = True, None
            self._open(0.0)
            ahead = self._opened().peek()
            if ahead is not None and ahead.depth is not None:
                self._shift = self._last + 1 / self._opened().fps - ahead.depth.stamp.time / 1000

    def _pace(self, timestamp: float) -> None:
        if self._speed is None:
            return
        now = self._clock.now()
        if self._began is None:
            self._began = now, timestamp
        self._clock.sleep(max(self._began[0] + (timestamp - self._began[1]) / self._speed - now, 0.0))
