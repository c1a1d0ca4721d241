"""Recordings of RealSense cameras, .db3 and .bag, played back so that every run gives the same frames.

librealsense's own playback pipeline repeats the last picture of a stream, and drops pictures when nobody reads. Here
the sensors are read as fast as the reader takes, and pictures are paired by their timestamps.
"""

from __future__ import annotations

import datetime
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.camera.capture import Capture, Clock, Picture
from zerograsp_edge.runtime.camera.reader import MonotonicClock
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.realsense.processing import Processing
from zerograsp_edge.runtime.camera.realsense.session import picture
from zerograsp_edge.runtime.camera.vetting import Vetting
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames, FrameError
from zerograsp_edge.runtime.frame import Frame

SUFFIXES = (".db3", ".bag")
# Pictures that are read ahead.
_AHEAD = 8
# How often it is looked whether the file has ended, s.
_LOOK = 0.05
# Nothing at all for so long is an error, s.
_HANG = 30.0
# librealsense's thread waits for our callback at most 10 s before it goes on and may drop pictures; before that the
# file is put aside, to be opened again where it was left.
_PATIENCE = 5.0


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
        clock: that `speed` waits by.

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
        self._tape: _Tape | None = None
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
        self._began, self._shift = None, 0.0
        self._open(0.0)
        first = self._opened().peek()
        if first is None or first.depth is None or seconds == 0:
            return
        self._go_to(seconds, first.depth.stamp.time + seconds * 1000)
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
            landed = self._opened().peek()
            if start == 0 or (landed is not None and landed.depth is not None and landed.depth.stamp.time <= wanted):
                break
            margin *= 4
        tape = self._opened()
        while (ahead := tape.peek()) is not None and ahead.depth is not None and ahead.depth.stamp.time < wanted:
            tape.take()

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

    def _opened(self) -> _Tape:
        if self._tape is None:
            raise CameraError(f"{self.path} is closed")
        return self._tape

    def _open(self, start: float) -> None:
        """Begin at a position in the file, s."""
        self.close()
        self._tape = _Tape(self._rs, self.path, self._filters, start, self._tolerance)
        self._vetting = Vetting(self._tape.depth_shape, self._tape.colour_shape, self._counters)

    def _resume(self) -> None:
        """Open again behind the last pair that was taken, where nobody read for so long that the file was put aside."""
        tape = self._opened()
        vetting, lone = self._vetting, tape.lone
        if tape.last is None:
            self._open(0.0)
        else:
            self._go_to(tape.position, tape.last + 1e-3)
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
                accepted = self._vetting.accept(capture)
                if accepted is not None:
                    return accepted
                continue
            if not self._loop or restarted:
                raise EndOfFrames(f"{self.path} has been played to its end: {self._counters}")
            restarted = True
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


class _Tape:
    """A file from a position on: pairs of pictures in order, read ahead by librealsense's thread, which waits for us.

    Attributes:
        lone: pictures without partner, since it was set to 0.
        last: timestamp of the last pair, ms.
        put_aside: it has ended because nobody has read for long, not because the file is used up.
    """

    def __init__(
        self, rs: ModuleType, path: Path, filters: FilterConfig, start: float, tolerance: float | None
    ) -> None:
        if not path.is_file():
            raise CameraError(f"{path} is not there; expected a recording ({' or '.join(SUFFIXES)})")
        self._rs, self._path = rs, path
        self.lone = 0
        self.last: float | None = None
        self.put_aside = False
        self._pending: dict[str, deque[Picture]] = {"depth": deque(), "colour": deque()}
        self._pictures: queue.Queue[Picture] = queue.Queue(_AHEAD)
        self._closing = threading.Event()
        self._playing, self._stopped = threading.Event(), threading.Event()
        self._ahead: Capture | None = None
        try:
            # A context of its own: one that has loaded a file gives out the same device again.
            self._context = rs.context()
            self._playback = self._context.load_device(str(path)).as_playback()
            # librealsense's thread then waits while our callback does.
            self._playback.set_real_time(False)
            self.duration = self._playback.get_duration().total_seconds()
            self._playback.set_status_changed_callback(self._changed)
            self._sensors = self._choose(filters, tolerance)
            if start > 0:
                self._playback.seek(datetime.timedelta(seconds=start))
            for sensor, profiles in self._sensors:
                sensor.open(profiles)
            for sensor, _ in self._sensors:
                sensor.start(self._came)
        except RuntimeError as error:
            raise CameraError(f"{path} cannot be played: {' '.join(str(error).split())}") from error

    def _choose(self, filters: FilterConfig, tolerance: float | None) -> list[tuple[Any, list[Any]]]:
        rs = self._rs
        chosen: list[tuple[Any, list[Any]]] = []
        found: dict[str, Any] = {}
        for sensor in self._playback.query_sensors():
            profiles = []
            for kind, stream, form in (
                ("depth", rs.stream.depth, rs.format.z16),
                ("colour", rs.stream.color, rs.format.rgb8),
            ):
                for profile in sensor.get_stream_profiles():
                    if kind not in found and profile.stream_type() == stream and profile.format() == form:
                        found[kind] = profile.as_video_stream_profile()
                        profiles.append(profile)
            if profiles:
                chosen.append((sensor, profiles))
        if missing := {"depth", "colour"} - found.keys():
            raise CameraError(
                f"{self._path} holds no {' and no '.join(sorted(missing))} pictures "
                "(expected depth as Z16 and colour as RGB8); record both"
            )
        depth, colour = found["depth"], found["colour"]
        self.processing = Processing(rs, depth, colour, filters)
        self.depth_shape = (depth.height(), depth.width())
        self.colour_shape = (colour.height(), colour.width())
        self.fps = float(depth.fps())
        self._tolerance = 500 / self.fps if tolerance is None else tolerance
        return chosen

    def _came(self, frame: Any) -> None:
        """Called by librealsense's threads; waits while enough is read ahead."""
        if self.put_aside:
            return
        frame.keep()
        taken = picture(frame)
        since = time.monotonic()
        while taken is not None and not self._closing.is_set():
            try:
                self._pictures.put(taken, timeout=_LOOK)
                return
            except queue.Full:
                if time.monotonic() - since > _PATIENCE:
                    self.put_aside = True
                    return

    def _changed(self, status: Any) -> None:
        """Called by librealsense's thread; at the end of the file after all pictures were delivered."""
        if status == self._rs.playback_status.playing:
            self._playing.set()
        elif status == self._rs.playback_status.stopped and self._playing.is_set():
            self._stopped.set()

    @property
    def position(self) -> float:
        """Where the file is being read, s; ahead of what was taken."""
        return self._playback.get_position() / 1e9

    def peek(self) -> Capture | None:
        """The next pair; None at the end."""
        if self._ahead is None:
            self._ahead = self._pair()
        return self._ahead

    def take(self) -> Capture | None:
        pair, self._ahead = self.peek(), None
        return pair

    def close(self) -> None:
        self._closing.set()
        for sensor, _ in self._sensors:
            for action in (sensor.stop, sensor.close):
                try:
                    action()
                except RuntimeError:  # it has stopped by itself at the end of the file
                    continue
        self._pending.clear()
        self._pictures = queue.Queue()
        del self._sensors[:], self._playback, self._context

    def _pair(self) -> Capture | None:
        """Nearest in time; the earlier of two heads goes alone when the other one, or what follows it, is no match."""
        depths, colours = self._pending["depth"], self._pending["colour"]
        while True:
            if not self._fill(depths, colours):
                self.lone += len(depths) + len(colours)
                depths.clear()
                colours.clear()
                return None
            early, late = (depths, colours) if depths[0].stamp.time <= colours[0].stamp.time else (colours, depths)
            distance = late[0].stamp.time - early[0].stamp.time
            # The successor of the earlier one may be nearer to the later one.
            nearer = distance > 0 and self._has_two(early) and abs(early[1].stamp.time - late[0].stamp.time) < distance
            if distance <= self._tolerance and not nearer:
                self.last = depths[0].stamp.time
                return Capture(depths.popleft(), colours.popleft(), time.monotonic())
            early.popleft()
            self.lone += 1

    def _fill(self, depths: deque[Picture], colours: deque[Picture]) -> bool:
        while not (depths and colours):
            if not self._more():
                return False
        return True

    def _has_two(self, pictures: deque[Picture]) -> bool:
        while len(pictures) < 2:
            if not self._more():
                return False
        return True

    def _more(self) -> bool:
        """One more picture from the file; False at its end."""
        waited = 0.0
        while True:
            ended = self.put_aside or self._stopped.is_set()  # looked at before the queue: what is in it then is all
            try:
                taken = self._pictures.get(block=not ended, timeout=_LOOK)
            except queue.Empty:
                if ended:
                    return False
                waited += _LOOK
                if waited > _HANG:
                    raise CameraError(f"{self._path}: librealsense has delivered nothing for {_HANG:g} s") from None
                continue
            self._pending["depth" if taken.pixels.ndim == 2 else "colour"].append(taken)
            return True
