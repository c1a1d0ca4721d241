"""Pairs of pictures from a recording, in order and each once, from any position on.

librealsense's own playback pipeline repeats the last picture of a stream, and drops pictures when nobody reads. Here
its sensors are made to wait for the reader, and pictures are paired by their timestamps.
"""

from __future__ import annotations

import datetime
import queue
import threading
import time
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from zerograsp_edge.runtime.camera.capture import Capture, Picture
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig
from zerograsp_edge.runtime.camera.realsense.processing import Processing
from zerograsp_edge.runtime.camera.realsense.session import picture
from zerograsp_edge.runtime.errors import CameraError

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


class Tape:
    """A file from a position on: pairs of pictures in order, read ahead by librealsense's thread, which waits for us.

    Attributes:
        lone: pictures without partner, since it was set to 0.
        put_aside: it has ended because nobody has read for long, not because the file is used up.
    """

    def __init__(
        self, rs: ModuleType, path: Path, filters: FilterConfig, start: float, tolerance: float | None
    ) -> None:
        if not path.is_file():
            raise CameraError(f"{path} is not there; expected a recording ({' or '.join(SUFFIXES)})")
        self._rs, self._path = rs, path
        self.lone = 0
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
            # The file begins to run with the first sensor that starts, and what the others are to deliver is lost until
            # they have started: held until all have.
            self._playback.pause()
            for sensor, _ in self._sensors:
                sensor.start(self._came)
            self._playback.resume()
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
