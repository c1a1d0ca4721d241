"""Depth and colour of one librealsense device, real or software, from opening its sensors to stopping them."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo
from zerograsp_edge.runtime.camera.capture import Capture, Picture, Stamp, Streams
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.faults import explained, is_fatal, no_profile
from zerograsp_edge.runtime.camera.realsense.options import set_options
from zerograsp_edge.runtime.camera.realsense.processing import Processing
from zerograsp_edge.runtime.errors import CameraError

logger = logging.getLogger(__name__)

# The syncer's queue: deep enough that nothing is lost in it while the reader's thread is not scheduled for a while.
_QUEUE = 16


class Session:
    """Sensors that stream into librealsense's syncer.

    The syncer is used instead of a pipeline because a pipeline repeats the last picture of a stream that is late.

    Args:
        device: `rs.device`.
        info: what messages call it.
        config: streams, options, filters.
        record: .db3 file that everything is written to as it comes.

    Raises:
        DeviceFault, SetupFault: nothing is open then.
    """

    def __init__(
        self, rs: ModuleType, device: Any, info: DeviceInfo, config: RealSenseConfig, record: Path | None = None
    ) -> None:
        self._rs, self._info = rs, info
        self._said = ""
        self._opened: list[Any] = []
        try:
            set_options(rs, device, info, config)
            # The recorder wraps the device and its sensors; it has to be kept, or the file is closed.
            self._device = device if record is None else rs.recorder(str(record), device)
            self._syncer = rs.syncer(_QUEUE)
            self.streams = self._start(config)
        except CameraError:  # said in our words already
            self.stop()
            raise
        except RuntimeError as error:
            self.stop()
            raise explained(error, info) from error

    def _start(self, config: RealSenseConfig) -> Streams:
        rs = self._rs
        chosen: dict[str, tuple[Any, Any]] = {}
        for kind, stream, form, size in (
            ("depth", rs.stream.depth, rs.format.z16, config.depth_size),
            ("colour", rs.stream.color, rs.format.rgb8, (config.width, config.height)),
        ):
            offered: set[tuple[int, int, int]] = set()
            for sensor in self._device.query_sensors():
                for profile in sensor.get_stream_profiles():
                    if profile.stream_type() != stream or profile.format() != form:
                        continue
                    video = profile.as_video_stream_profile()
                    offered.add((video.width(), video.height(), profile.fps()))
                    if (video.width(), video.height(), profile.fps()) == (*size, config.fps):
                        chosen.setdefault(kind, (sensor, profile))
            if kind not in chosen:
                raise no_profile(self._info, kind, size, config.fps, offered)
        (depth_sensor, depth), (colour_sensor, colour) = chosen["depth"], chosen["colour"]
        # One sensor has both on a D405, whose colour is the left imager's.
        shared = _name(rs, depth_sensor) == _name(rs, colour_sensor)
        groups = [(depth_sensor, [depth, colour])] if shared else [(depth_sensor, [depth]), (colour_sensor, [colour])]
        processing = Processing(rs, depth, colour, config.filters)
        for sensor, profiles in groups:
            sensor.set_notifications_callback(self._notified)
            sensor.open(profiles)
            self._opened.append(sensor)
        for sensor, _ in groups:
            sensor.start(self._syncer)
        width, height = config.depth_size
        return Streams(processing.intrinsics, (height, width), (config.height, config.width), config.fps, processing)

    def wait(self, timeout: float) -> Capture | None:
        """The next delivery of the syncer; None when nothing has come within `timeout` s."""
        if self._said:
            said, self._said = self._said, ""
            raise DeviceFault(f"{self._info}: the device reports: {said}")
        try:
            came, frames = self._syncer.try_wait_for_frames(max(round(timeout * 1000), 1))
        except RuntimeError as error:
            raise explained(error, self._info) from error
        return capture(frames) if came else None

    def poll(self) -> Capture | None:
        """A delivery that is there already."""
        frames = self._syncer.poll_for_frames()
        return capture(frames) if frames else None

    def stop(self) -> None:
        for sensor in self._opened:
            for action in (sensor.stop, sensor.close):
                try:
                    action()
                except RuntimeError as error:  # it is gone, or was never started
                    logger.debug("%s: %s", self._info, error)
        self._opened.clear()
        # The recorder's file is complete when the last reference is gone.
        self._device = self._syncer = None

    def _notified(self, notification: Any) -> None:
        """Called by librealsense in a thread of its own."""
        said = notification.description
        logger.warning("%s: %s", self._info, said)
        if is_fatal(said):
            self._said = said


def capture(frames: Any) -> Capture:
    """A frameset as a capture; the pixels stay librealsense's and live as long as the capture."""
    depth, colour = frames.get_depth_frame(), frames.get_color_frame()
    return Capture(picture(depth), picture(colour), time.monotonic())


def picture(frame: Any) -> Picture | None:
    if not frame:
        return None
    domain = str(frame.get_frame_timestamp_domain()).rsplit(".", 1)[-1]
    stamp = Stamp(frame.get_frame_number(), frame.get_timestamp(), domain)
    return Picture(stamp, np.asanyarray(frame.get_data()), frame)


def _name(rs: ModuleType, sensor: Any) -> str:
    return sensor.get_info(rs.camera_info.name) if sensor.supports(rs.camera_info.name) else ""
