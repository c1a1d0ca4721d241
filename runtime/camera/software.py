"""A camera without hardware that is librealsense all the same: its software device, syncer, filters and alignment.

It is fed with the frames of another source, a simulation or a folder, or with faults:

    with SoftwareCamera(SimulatedCamera(seed=3)) as camera:
        frame = camera.read()
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from zerograsp_edge.runtime.camera.backend import DeviceInfo
from zerograsp_edge.runtime.camera.base import Camera
from zerograsp_edge.runtime.camera.capture import Capture, Clock, Streams
from zerograsp_edge.runtime.camera.reader import MonotonicClock
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.realsense.session import Session
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames
from zerograsp_edge.runtime.frame import Frame

SERIAL = "software"


@dataclass(frozen=True, eq=False)
class Shot:
    """What the software device delivers at one moment; either picture may be missing or of another size.

    Attributes:
        number: frame counter.
        time: ms.
        depth: (H, W) uint16, in the device's depth units.
        colour: (H, W, 3) uint8, red first.
    """

    number: int
    time: float
    depth: np.ndarray | None
    colour: np.ndarray | None


@dataclass(frozen=True)
class Silence:
    """Nothing is delivered for a while.

    Attributes:
        seconds: of the camera's clock.
    """

    seconds: float


@dataclass(frozen=True, eq=False)
class Optics:
    """The software device's two pictures.

    Attributes:
        depth, colour: (3, 3) pinhole intrinsics, pixels.
        depth_size, colour_size: (width, height).
        colour_from_depth: (4, 4), m.
        depth_units: m per unit of depth.
        distortion: five inverse Brown-Conrady coefficients of colour.
    """

    depth: np.ndarray
    colour: np.ndarray
    depth_size: tuple[int, int]
    colour_size: tuple[int, int]
    colour_from_depth: np.ndarray
    depth_units: float = 0.001
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)

    @staticmethod
    def registered(frame: Frame, depth_units: float = 0.001) -> Optics:
        """Those of a frame, in which depth is registered to colour."""
        size = (frame.width, frame.height)
        return Optics(frame.intrinsics, frame.intrinsics, size, size, np.eye(4), depth_units)


class SoftwareDevice:
    """librealsense's software device with a depth and a colour stream.

    Args:
        optics: of its pictures.
        fps: pictures a second, by which the syncer tells what belongs together.
        other_sizes: (width, height) of depth pictures that may come although that size was not opened: faults.
    """

    def __init__(
        self, rs: ModuleType, optics: Optics, fps: int, other_sizes: Sequence[tuple[int, int]] = ()
    ) -> None:
        self._rs, self._optics = rs, optics
        self.device = rs.software_device()
        for name, value in (("name", "Software RealSense"), ("serial_number", SERIAL), ("product_line", "D400")):
            self.device.register_info(getattr(rs.camera_info, name), value)
        self._depth = self.device.add_sensor("Stereo Module")
        self._colour = self.device.add_sensor("RGB Camera")
        self._depth.add_read_only_option(rs.option.depth_units, optics.depth_units)
        self._depth.add_read_only_option(rs.option.stereo_baseline, 50.0)  # mm; the disparity filters ask for it
        self._profiles: dict[tuple[str, tuple[int, int]], Any] = {}
        self._add("depth", optics.depth, optics.depth_size, fps)
        self._add("colour", optics.colour, optics.colour_size, fps)
        for size in other_sizes:
            self._add("depth", optics.depth, size, fps + 1)  # another rate, so that nobody opens it
        pose = rs.extrinsics()
        pose.rotation = optics.colour_from_depth[:3, :3].T.ravel().tolist()  # by columns
        pose.translation = optics.colour_from_depth[:3, 3].tolist()
        colour = self._profiles["colour", optics.colour_size]
        for (kind, _), profile in self._profiles.items():
            if kind == "depth":
                profile.register_extrinsics_to(colour, pose)
        self.device.create_matcher(rs.matchers.default)

    def push(self, shot: Shot, domain: str = "hardware_clock") -> None:
        """Deliver the pictures of a shot, depth first."""
        for kind, sensor, pixels in (("depth", self._depth, shot.depth), ("colour", self._colour, shot.colour)):
            if pixels is None:
                continue
            size = (pixels.shape[1], pixels.shape[0])
            profile = self._profiles.get((kind, size))
            if profile is None:
                raise CameraError(f"the software device has no {kind} stream of {size[0]}x{size[1]} pixels")
            frame = self._rs.software_video_frame()
            frame.pixels = np.ascontiguousarray(pixels)
            frame.bpp = pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
            frame.stride = pixels.shape[1] * frame.bpp
            frame.timestamp, frame.frame_number = shot.time, shot.number
            frame.domain = getattr(self._rs.timestamp_domain, domain)
            frame.profile = profile.as_video_stream_profile()
            if kind == "depth":
                frame.depth_units = self._optics.depth_units
            sensor.on_video_frame(frame)

    def _add(self, kind: Literal["depth", "colour"], intrinsics: np.ndarray, size: tuple[int, int], fps: int) -> None:
        rs, stream = self._rs, self._rs.video_stream()
        stream.type = rs.stream.depth if kind == "depth" else rs.stream.color
        # All depth pictures are of one stream, or the syncer would wait for two.
        stream.index, stream.uid, stream.fps = 0, int(kind == "colour"), fps
        stream.fmt = rs.format.z16 if kind == "depth" else rs.format.rgb8
        stream.bpp = 2 if kind == "depth" else 3
        stream.width, stream.height = size
        distortion = self._optics.distortion if kind == "colour" else (0.0,) * 5
        stream.intrinsics = _intrinsics(rs, intrinsics, size, distortion)
        sensor = self._depth if kind == "depth" else self._colour
        self._profiles[kind, size] = sensor.add_video_stream(stream)


class SoftwareBackend:
    """A software device that is fed while it is waited for, so that nothing depends on the speed of the machine.

    Args:
        feed: what it delivers, one after the other.
        optics: of its pictures.
        clock: that silences and real time pass by.
        real_time: deliver at `config.fps` by that clock, stamped with the wall clock's time, instead of at once.
        record: .db3 file that the device is recorded to.
        other_sizes: see SoftwareDevice.
    """

    def __init__(
        self,
        feed: Iterable[Shot | Silence],
        optics: Optics,
        config: RealSenseConfig,
        clock: Clock,
        *,
        real_time: bool = False,
        record: Path | None = None,
        other_sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._rs = librealsense("run a software device")
        self._feed, self._optics, self._config, self._clock = iter(feed), optics, config, clock
        self._real_time, self._record, self._other_sizes = real_time, record, other_sizes
        self._device: SoftwareDevice | None = None
        self._session: Session | None = None
        self._silent = 0.0
        self._due: float | None = None
        self.pushed = 0

    def devices(self) -> Sequence[DeviceInfo]:
        return [DeviceInfo(SERIAL, "Software RealSense")]

    def start(self, device: DeviceInfo) -> Streams:
        self._device = SoftwareDevice(self._rs, self._optics, self._config.fps, self._other_sizes)
        self._session = Session(self._rs, self._device.device, device, self._config, self._record)
        return self._session.streams

    def wait(self, timeout: float) -> Capture | None:
        assert self._session is not None and self._device is not None
        while True:
            capture = self._session.poll()  # the software device delivers before `push` returns
            if capture is not None:
                return capture
            if self._silent > 0:
                pause = min(self._silent, timeout)
                self._clock.sleep(pause)
                self._silent -= pause
                if self._silent > 0 or pause == timeout:
                    return None
            if self._real_time and not self._is_due(timeout):
                return None
            item = next(self._feed, None)
            if item is None:
                raise EndOfFrames(f"the software device has delivered all {self.pushed} shots")
            if isinstance(item, Silence):
                self._silent = item.seconds
                continue
            if self._real_time:
                self._device.push(replace(item, time=time.time() * 1000), "system_time")
            else:
                self._device.push(item)
            self.pushed += 1

    def stop(self) -> None:
        if self._session is not None:
            self._session.stop()
        self._session = self._device = None

    def reset(self, device: DeviceInfo) -> None:
        """Nothing that could hang."""

    def _is_due(self, timeout: float) -> bool:
        now = self._clock.now()
        self._due = now if self._due is None else self._due
        if self._due - now > timeout:
            self._clock.sleep(timeout)
            return False
        self._clock.sleep(max(self._due - now, 0.0))
        self._due = max(self._due + 1 / self._config.fps, now)  # a slow source does not catch up
        return True


class SoftwareCamera(RealSenseCamera):
    """A RealSense camera whose device is librealsense's software device, fed from another source of frames.

    Args:
        source: its frames are fed in order: colour, and depth rounded to `depth_units`; masks stay behind. Closed with
            this camera.
        config: as of a real camera; sizes are the source's, there is no warm-up, and serial number, preset and exposure
            mean nothing.
        real_time: as a live camera: `config.fps` frames a second, the newest wins, timestamps are of the monotonic
            clock. False: every frame is delivered as fast as it is read, timestamps are the source's.
        depth_units: m per unit of depth: 0.001 as most of the family, 0.0001 as a D405.
        record: .db3 file that the device is recorded to.

    Raises:
        EndOfFrames: the source has no frame.
    """

    def __init__(
        self,
        source: Camera,
        config: RealSenseConfig | None = None,
        *,
        real_time: bool = False,
        depth_units: float = 0.001,
        record: Path | None = None,
    ) -> None:
        first = source.read()
        config = replace(
            config or RealSenseConfig(),
            width=first.width, height=first.height, depth_width=0, depth_height=0, warm_up=0,
            serial=None, clock="monotonic" if real_time else "own",
            # A source that is waited for may take its time.
            timeout=(config or RealSenseConfig()).timeout if real_time else float("inf"),
        )  # fmt: skip
        self._source = source
        self.live = real_time
        clock = MonotonicClock()
        backend = SoftwareBackend(
            shots(source, first, depth_units), Optics.registered(first, depth_units), config, clock,
            real_time=real_time, record=record,
        )  # fmt: skip
        super().__init__(config, backend=backend, clock=clock, keep_all=not real_time)

    def close(self) -> None:
        super().close()
        self._source.close()


def shots(source: Camera, first: Frame | None = None, depth_units: float = 0.001) -> Iterator[Shot]:
    """The frames of a source as a device delivers them, numbered from 1.

    Raises:
        CameraError: a frame of another size than the first, or deeper than 16 bits can say.
    """
    frame, number = first, 0
    while True:
        try:
            frame = source.read() if frame is None else frame
        except EndOfFrames:
            return
        number += 1
        units = frame.depth / np.float32(round(depth_units * 1000, 6))
        if units.max() > np.iinfo(np.uint16).max:
            raise CameraError(f"frame '{frame.name}': depth up to {frame.depth.max():.0f} mm does not fit into 16 bits "
                              f"of {depth_units:g} m")  # fmt: skip
        yield Shot(number, frame.timestamp * 1000, np.rint(units).astype(np.uint16), frame.rgb)
        frame = None


def _intrinsics(rs: ModuleType, matrix: np.ndarray, size: tuple[int, int], distortion: Sequence[float]) -> Any:
    intrinsics = rs.intrinsics()
    intrinsics.width, intrinsics.height = size
    intrinsics.fx, intrinsics.fy = float(matrix[0, 0]), float(matrix[1, 1])
    intrinsics.ppx, intrinsics.ppy = float(matrix[0, 2]), float(matrix[1, 2])
    intrinsics.model = rs.distortion.inverse_brown_conrady
    intrinsics.coeffs = list(distortion)
    return intrinsics
