"""The result of a camera calibration: a file with refined intrinsics and a depth correction, and its use on frames.

It lies on the lean side because cameras apply it; `zerograsp-edge calibrate camera` writes it.

The depth correction is affine in inverse depth: with x = (u - cx) / fx and y = (v - cy) / fy,

    1 / z = scale / z_measured + offset + tilt_x x + tilt_y y.

A stereo camera measures disparity d, z = f B / d. A wrong baseline or focal length scales d; a small rotation of one
imager against the other adds an offset (about the vertical axis) and a slope across the picture (about the optical
axis). These four numbers are exactly the distortions of space that leave the picture itself as it is, planes plane and
lines straight: the homographies [I 0; v^T k] that keep the camera [I | 0] (Hartley and Zisserman, Multiple View
Geometry, 2nd edition, chapter 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np

from zerograsp_edge.runtime.camera.base import Camera, CameraCounters, FrameSource, TimestampClock
from zerograsp_edge.runtime.configuration import build
from zerograsp_edge.runtime.errors import CameraError, ConfigError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.versioned_file import read_entries, write_entries

FORMAT, VERSION = "zerograsp-edge camera calibration", 1
Verdict = Literal["fine", "apply", "more views", "problem"]
# A frame's own intrinsics may differ from those at the time of the calibration by rounding, px.
_SAME_PX = 0.05


@dataclass(frozen=True)
class Pinhole:
    """Focal lengths and principal point, pixels; integer coordinates are pixel centres."""

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if not (0 < self.fx < np.inf and 0 < self.fy < np.inf and np.isfinite([self.cx, self.cy]).all()):
            raise ValueError(f"expected positive focal lengths and a finite principal point, got {self}")

    @classmethod
    def of(cls, matrix: np.ndarray) -> Pinhole:
        """Of a (3, 3) matrix."""
        return cls(float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def __str__(self) -> str:
        return f"fx {self.fx:.2f}, fy {self.fy:.2f}, cx {self.cx:.2f}, cy {self.cy:.2f}"


@dataclass(frozen=True)
class DepthCorrection:
    """Inverse depth = scale * measured + offset + tilt_x x + tilt_y y; see the module.

    Attributes:
        scale: without unit, 0.9 to 1.1.
        offset, tilt_x, tilt_y: 1/m, at most 0.5.
    """

    scale: float = 1.0
    offset: float = 0.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0

    def __post_init__(self) -> None:
        plane = (self.offset, self.tilt_x, self.tilt_y)
        # `not <=` also refuses NaN.
        if not 0.9 <= self.scale <= 1.1 or not all(abs(value) <= 0.5 for value in plane):
            raise ValueError(f"expected a scale of 0.9 to 1.1 and offset and tilts within 0.5 1/m, got {self}")

    @property
    def is_identity(self) -> bool:
        return self == DepthCorrection()

    def plane(self, camera: Pinhole, width: int, height: int) -> np.ndarray:
        """(H, W) float32, 1/mm: what is added to the scaled inverse depth of every pixel."""
        x = (np.arange(width) - camera.cx) / camera.fx
        y = (np.arange(height) - camera.cy) / camera.fy
        return np.asarray((self.offset + self.tilt_x * x + self.tilt_y * y[:, None]) / 1000, np.float32)

    def apply(self, depth: np.ndarray, plane: np.ndarray) -> np.ndarray:
        """Corrected depth (H, W) float32, mm; 0 stays 0, and the identity leaves every bit as it is.

        A depth that the correction puts at or behind infinity comes out infinite or negative: a Frame counts it as no
        measurement.
        """
        denominator = depth * plane
        denominator += np.float32(self.scale)
        with np.errstate(divide="ignore"):
            return np.divide(depth, denominator, out=denominator)


@dataclass(frozen=True)
class CameraResiduals:
    """How well the calibration explains the views it was made from.

    Attributes:
        corners_factory_px, corners_px: RMS distance of corners to the board in views that were left out of the fit,
            with the factory's intrinsics and with those of the file.
        depth_raw_percent, depth_percent: the same of depth to the board's plane, percent of the depth.
        sigma_focal_percent, sigma_centre_px, sigma_scale_percent: standard deviations of the estimates.
        views_used, views_rejected: counts.
    """

    corners_factory_px: float
    corners_px: float
    depth_raw_percent: float
    depth_percent: float
    sigma_focal_percent: float
    sigma_centre_px: float
    sigma_scale_percent: float
    views_used: int
    views_rejected: int


@dataclass(frozen=True)
class CameraCalibration:
    """What `calibrate camera` found.

    Attributes:
        width, height: of the pictures it is for.
        serial: of the camera, empty when unknown.
        intrinsics: to be used.
        factory: those that frames arrive with.
        depth_correction: of depth in mm along the optical axis of `intrinsics`.
        verdict: `fine` (nothing to correct), `apply`, `more views` or `problem`.
        advice: what to do.
        date: ISO 8601, when it was calibrated.
    """

    width: int
    height: int
    serial: str
    intrinsics: Pinhole
    factory: Pinhole
    depth_correction: DepthCorrection
    verdict: Verdict
    residuals: CameraResiduals
    date: str
    advice: tuple[str, ...] = field(default=())

    @cached_property
    def _plane(self) -> np.ndarray:
        return self.depth_correction.plane(self.intrinsics, self.width, self.height)

    @cached_property
    def _matrix(self) -> np.ndarray:
        return self.intrinsics.matrix.astype(np.float32)

    def check_serial(self, serial: str) -> None:
        """Raises CameraError for another camera; an unknown serial number, '', passes."""
        if serial and self.serial and serial != self.serial:
            raise CameraError(
                f"the calibration is of camera {self.serial}, this is camera {serial}; "
                "make one with: zerograsp-edge calibrate camera"
            )

    def apply(self, frame: Frame) -> Frame:
        """The frame with refined intrinsics and corrected depth.

        Raises:
            CameraError: the frame has another size, or other intrinsics than those the calibration started from (also
                those of a frame that has been corrected already, or cropped before).
        """
        if (frame.width, frame.height) != (self.width, self.height):
            raise CameraError(
                f"frame '{frame.name}' is {frame.width}x{frame.height} pixels, the calibration is for "
                f"{self.width}x{self.height}; calibrate at this resolution, or correct frames before they are cropped"
            )
        if np.abs(frame.intrinsics - self.factory.matrix).max() > _SAME_PX:
            raise CameraError(
                f"frame '{frame.name}' comes with {Pinhole.of(frame.intrinsics)}, the calibration is for a camera with "
                f"{self.factory}; is it corrected already, cropped, or of another camera?"
            )
        depth = frame.depth
        if not self.depth_correction.is_identity:
            depth = self.depth_correction.apply(depth, self._plane)
        return frame.with_calibration(self._matrix, depth)

    @staticmethod
    def load(path: str | Path) -> CameraCalibration:
        """Read and validate a file, JSON or YAML.

        Raises:
            ConfigError: missing, damaged, another format or version, or an entry that cannot be; names file and entry.
        """
        path = Path(path)
        try:
            entries = dict(read_entries(path, FORMAT, VERSION, "camera calibration", ConfigError))
            del entries["format"], entries["version"], entries["unit"]
            return build(CameraCalibration, entries, "calibration")
        except KeyError as error:
            raise ConfigError(f"{path}: entry {error} is missing") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}; make a new one with: zerograsp-edge calibrate camera") from error

    def save(self, path: str | Path) -> Path:
        """Write the file, .yaml or .json, in one step. It also serves as a camera file (`read_camera`).

        Raises:
            ConfigError: another suffix. OutputError: it cannot be written.
        """
        return write_entries(path, self.to_dict(), ConfigError)

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        entries: Mapping[str, Any] = asdict(self)
        unit = "px; depth_correction: 1/z = scale/z_measured + offset + tilt_x x + tilt_y y, in 1/m"
        return {"format": FORMAT, "version": VERSION, "unit": unit, **entries, "advice": list(self.advice)}


class CorrectedCamera:
    """A camera whose frames come corrected.

    Args:
        source: any camera; closed with this one. What it offers beyond `read` is passed on.

    Raises:
        CameraError: the calibration is of a camera with another serial number; `source` is closed.
    """

    def __init__(self, source: Camera, calibration: CameraCalibration) -> None:
        self._source, self.calibration = source, calibration
        try:
            calibration.check_serial(str(getattr(source, "serial", "") or ""))
        except CameraError:
            source.close()
            raise

    def read(self) -> Frame:
        return self.calibration.apply(self._source.read())

    def close(self) -> None:
        self._source.close()

    @property
    def name(self) -> str:
        return cast(FrameSource, self._source).name

    @property
    def clock(self) -> TimestampClock:
        return cast(FrameSource, self._source).clock

    @property
    def live(self) -> bool:
        return cast(FrameSource, self._source).live

    @property
    def counters(self) -> CameraCounters:
        return cast(FrameSource, self._source).counters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __enter__(self) -> CorrectedCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
