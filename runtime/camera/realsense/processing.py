"""From librealsense's pictures to those of a frame: filters, alignment to colour, millimetres, a pinhole camera."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from zerograsp_edge.runtime.camera.capture import Capture, Developed
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig
from zerograsp_edge.runtime.camera.realsense.lens import pinhole, rectification

# What is kept of a frame's metadata, by librealsense's names.
_METADATA = (
    "actual_exposure",
    "gain_level",
    "auto_exposure",
    "frame_laser_power",
    "frame_emitter_mode",
    "white_balance",
    "temperature",
    "sensor_timestamp",
    "frame_counter",
)
# Streams are registered when no point lands farther than this from where it is, m, and no focal length or principal
# point differs by more than this, pixels.
_SAME_PLACE = 1e-6
_SAME_PIXEL = 1e-3


class Processing:
    """Makes frames' pictures of captures of one pair of streams.

    Args:
        depth, colour: the stream profiles.
        filters: of depth.

    Attributes:
        registered: depth and colour come registered; alignment would only move pixels by rounding, and is left out.
        intrinsics: (3, 3) float32, pixels, of the frames.
    """

    def __init__(self, rs: ModuleType, depth: Any, colour: Any, filters: FilterConfig) -> None:
        self._rs = rs
        depth, colour = depth.as_video_stream_profile(), colour.as_video_stream_profile()
        self.registered = are_registered(depth, colour)
        self.intrinsics = pinhole(colour.intrinsics)
        self._places = rectification(colour.intrinsics)
        self._filters = depth_filters(rs, filters)
        # Decimated depth has another size, which alignment undoes.
        aligned = not self.registered or filters.decimation > 1
        self._align = rs.align(rs.stream.color) if aligned else None
        # Captured by itself: a cycle through librealsense's callback would never be collected.
        self._pair = pair = []  # type: list[Any]
        self._composed = rs.frame_queue(1)
        self._composer = rs.processing_block(
            lambda _, source: source.frame_ready(source.allocate_composite_frame(pair))
        )
        self._composer.start(self._composed)

    def __call__(self, capture: Capture) -> Developed:
        assert capture.depth is not None and capture.colour is not None
        frames = self._compose(capture.depth.handle, capture.colour.handle)
        metadata = self._metadata(frames)
        for block in self._filters:
            frames = block.process(frames).as_frameset()
        colour = frames.get_color_frame()
        if self._align is not None:
            frames = self._align.process(frames)
        depth = frames.get_depth_frame()
        # Copies: librealsense has few buffers for pictures, and stops when all are held.
        rgb = np.array(np.asanyarray(colour.get_data()))
        # Not the product of two float32: 0.001 m is not one.
        scale = np.float32(round(depth.get_units() * 1000, 6))
        millimetres = np.multiply(np.asanyarray(depth.get_data()), scale, dtype=np.float32)
        if self._places is not None:
            rgb, millimetres = self._rectified(rgb, millimetres)
        return Developed(rgb, millimetres, metadata)

    def _compose(self, depth: Any, colour: Any) -> Any:
        """A frameset of two frames, which is what filters and alignment take."""
        self._pair[:] = depth, colour
        self._composer.invoke(depth)
        self._pair.clear()
        return self._composed.wait_for_frame().as_frameset()

    def _rectified(self, rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth takes the nearest pixel: between two surfaces there is none."""
        import cv2

        assert self._places is not None
        x, y = self._places
        return (
            np.asarray(cv2.remap(rgb, x, y, cv2.INTER_LINEAR)),
            np.asarray(cv2.remap(depth, x, y, cv2.INTER_NEAREST)),
        )

    def _metadata(self, frames: Any) -> dict[str, float]:
        values = {}
        for kind, frame in (("depth", frames.get_depth_frame()), ("colour", frames.get_color_frame())):
            for name in _METADATA:
                value = getattr(self._rs.frame_metadata_value, name)
                if frame.supports_frame_metadata(value):
                    values[f"{kind}.{name}"] = float(frame.get_frame_metadata(value))
        return values


def depth_filters(rs: ModuleType, config: FilterConfig) -> list[Any]:
    """librealsense's filters in the order of its doc/post-processing-filters.md."""
    blocks: list[Any] = []
    if config.decimation > 1:
        blocks.append(rs.decimation_filter(config.decimation))
    if config.range is not None:
        blocks.append(rs.threshold_filter(*config.range))
    if config.spatial or config.temporal:
        blocks.append(rs.disparity_transform(True))
        blocks += [rs.spatial_filter()] if config.spatial else []
        blocks += [rs.temporal_filter()] if config.temporal else []
        blocks.append(rs.disparity_transform(False))
    if config.holes != "none":
        blocks.append(rs.hole_filling_filter(("left", "farthest", "nearest").index(config.holes)))
    return blocks


def are_registered(depth: Any, colour: Any) -> bool:
    """Whether equal pixels of the two video stream profiles see the same point, at every depth."""
    a, b = depth.intrinsics, colour.intrinsics
    pose = depth.get_extrinsics_to(colour)
    same_pose = np.allclose(pose.rotation, np.eye(3).ravel(), atol=_SAME_PLACE) and np.allclose(
        pose.translation, 0, atol=_SAME_PLACE
    )
    same_camera = (a.width, a.height) == (b.width, b.height) and np.allclose(
        [a.fx, a.fy, a.ppx, a.ppy], [b.fx, b.fy, b.ppx, b.ppy], atol=_SAME_PIXEL
    )
    undistorted = not any(a.coeffs) and not any(b.coeffs)
    same_lens = undistorted or (a.model == b.model and np.allclose(a.coeffs, b.coeffs, atol=1e-6))
    return bool(same_pose and same_camera and same_lens)
